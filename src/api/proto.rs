//! The generated contract: `portcullis.v1` and `portcullis.sandbox.v1`, with protobuf JSON through serde.

/// The public API.
#[allow(clippy::all, clippy::pedantic, deprecated, missing_docs, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("portcullis.v1");
    include!(concat!(env!("OUT_DIR"), "/portcullis.v1.serde.rs"));
}

/// The sandbox's own service.
pub mod sandbox {
    /// See `portcullis/sandbox/v1/sandbox_service.proto`.
    #[allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]
    pub mod v1 {
        tonic::include_proto!("portcullis.sandbox.v1");
        include!(concat!(env!("OUT_DIR"), "/portcullis.sandbox.v1.serde.rs"));
    }
}

/// The descriptor set of both packages and what they import, encoded so that options survive.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/portcullis.bin"));
