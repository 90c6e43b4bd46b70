//! A real PgBouncer in transaction mode, from Debian's package, with fewer connections to the server than it has clients.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Stdio},
    sync::LazyLock,
};

use crate::{
    server::{PASSWORD, end_with_us, give_away},
    world::shared,
};

#[derive(Debug)]
pub struct Bouncer {
    port: u16,
    _process: Child,
    _reaper: Child,
}

/// One for all tests, in front of the server that they share.
pub fn bouncer() -> &'static Bouncer {
    static BOUNCER: LazyLock<Bouncer> = LazyLock::new(|| Bouncer::start("bouncer", 3));
    &BOUNCER
}

/// Another, with one connection to each database: everybody has the same session, one after the other.
pub fn one_session() -> &'static Bouncer {
    static BOUNCER: LazyLock<Bouncer> = LazyLock::new(|| Bouncer::start("one_session", 1));
    &BOUNCER
}

impl Bouncer {
    fn start(name: &str, connections: u32) -> Self {
        let program = "/usr/sbin/pgbouncer";
        assert!(Path::new(program).exists(), "PgBouncer is missing: run scripts/tools postgresql");
        let server = shared();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = server.folder().join(format!("{name}.ini"));
        let log = server.folder().join(format!("{name}.log"));
        let (_, server_port) =
            server.address().rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
        fs::write(
            &file,
            format!(
                "[databases]\n* = host=127.0.0.1 port={server_port} user=postgres password={PASSWORD}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = any\npool_mode = transaction\ndefault_pool_size = {connections}\n\
                 max_client_conn = 1000\nserver_idle_timeout = 5\n"
            ),
        )
        .unwrap();
        give_away(&file);
        let log = fs::File::create(log).unwrap();
        let process = server
            .program(program)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let reaper = end_with_us(process.id());
        while TcpStream::connect(("127.0.0.1", port)).is_err() {}
        Self { port, _process: process, _reaper: reaper }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
