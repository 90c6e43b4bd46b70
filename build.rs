//! Generates the contract's Rust types, their protobuf-JSON form and the descriptor set that reflection serves.
//! No `protoc` is needed: protox compiles the files.

use std::{env, error::Error, fs, path::PathBuf};

const PROTOS: [&str; 5] = [
    "portcullis/v1/types.proto",
    "portcullis/v1/revocation.proto",
    "portcullis/v1/security_group_service.proto",
    "portcullis/v1/operation_service.proto",
    "portcullis/sandbox/v1/sandbox_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(PROTOS)?;
    // The encoded form keeps options such as google.api.field_behavior; a decoded set would lose them.
    let encoded = compiler.encode_file_descriptor_set();
    fs::write(out.join("portcullis.bin"), &encoded)?;

    // The codec bounds requests, which it knows by their names.
    let mut named = prost_build::Config::new();
    named.enable_type_names();
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .codec_path("crate::api::codec::BoundedCodec")
        .compile_fds_with_config(compiler.file_descriptor_set(), named)?;

    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .extern_path(".google.protobuf", "::pbjson_types")
        // The sandbox loads what the AWS CLI prints, with whatever AWS adds to it.
        .ignore_unknown_fields()
        .build(&[".portcullis"])?;
    Ok(())
}
