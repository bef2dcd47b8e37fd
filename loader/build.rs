//! Build script: compiles the protocol buffers of the loader service.

fn main() {
    #[cfg(feature = "client")]
    compile();
}

#[cfg(feature = "client")]
fn compile() {
    const PROTO: &str = "proto/hiend/loader/v1/loader.proto";
    println!("cargo::rerun-if-changed={PROTO}");
    let files = protox::compile([PROTO], ["proto"]).expect("the contract is valid");
    tonic_prost_build::configure()
        // The methods are called and answered by `remote` and `service`, which move the bytes of batches without copies.
        .build_client(false)
        .build_server(false)
        .bytes(".")
        .compile_fds(files)
        .expect("the contract compiles to Rust");
}
