//! Generates the client, and protobuf JSON for its messages.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let mut compiler = protox::Compiler::new(["../../proto"])?;
    compiler.include_imports(true).open_files([
        "portcullis/v1/security_group_service.proto",
        "portcullis/v1/operation_service.proto",
    ])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(compiler.file_descriptor_set())?;
    pbjson_build::Builder::new()
        .register_descriptors(&compiler.encode_file_descriptor_set())?
        .extern_path(".google.protobuf", "::pbjson_types")
        .build(&[".portcullis"])?;
    Ok(())
}
