//! Compiles `proto/*.proto` with a compiler written in Rust, so that nobody needs `protoc`.

use std::path::PathBuf;
use std::{env, error, fs};

use prost::Message as _;

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files: Vec<PathBuf> =
        fs::read_dir("proto")?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    files.sort();
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut embedded = descriptors.clone();
    for file in &mut embedded.file {
        // The comments go into the generated code below; the running program has no use for them.
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), embedded.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // Sorted, so that equal clusters are equal bytes: the control server names versions by them.
    config.btree_map([".envoy.config.cluster.v3.Cluster.typed_extension_protocol_options"]);
    tonic_prost_build::configure()
        .include_file("packages.rs")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
