//! Where operations are recorded.

use super::{DAY, Key, MILLISECONDS, Takes};

pub(super) const LEDGER: &[Key] = &[
    Key {
        name: "ledger",
        takes: Takes::Ledger,
        default: "",
        only_with: None,
        doc: "Where changes are recorded: memory, sqlite:PATH (one file, one server), or \
              postgres://USER@HOST/DATABASE (several replicas). Without it: memory with the sandbox, \
              sqlite:portcullis-data/ledger.db with EC2. A password belongs into \
              PORTCULLIS_LEDGER or the file, not among the flags.",
    },
    Key {
        name: "idempotency_required",
        takes: Takes::Switch,
        default: "false",
        only_with: None,
        doc: "Refuses changes that carry no idempotency key.",
    },
    Key {
        name: "ledger_key_retention_hours",
        takes: Takes::Number("hours", 1, 8760),
        default: "24",
        only_with: None,
        doc: "How long a key gets the recorded answer, from the settling of its operation. Later it is \
              a new key.",
    },
    Key {
        name: "ledger_record_retention_days",
        takes: Takes::Number("days", 1, 3650),
        default: "90",
        only_with: None,
        doc: "How long a record is kept, from the settling of its operation. What is not settled is \
              never forgotten.",
    },
    Key {
        name: "ledger_settle_grace_ms",
        takes: Takes::Number(MILLISECONDS, 0, DAY / 24),
        default: "5000",
        only_with: None,
        doc: "How long after the end of an attempt a change may still not show in reads. What became of \
              an operation in doubt is found out after that.",
    },
];
