//! Compiles the C++ shim against the headers that llama-cpp-sys-2 installed.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=src/llama/shim.cpp");
    // The sys crate publishes <prefix>/lib/cmake; the headers are in <prefix>/include.
    let cmake_dir = std::env::var("DEP_LLAMA_GGML_CMAKE_DIR")
        .expect("llama-cpp-sys-2 tells its direct dependents where ggml is installed");
    let prefix = PathBuf::from(cmake_dir).ancestors().nth(2).map(PathBuf::from).expect("an install prefix");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(prefix.join("include"))
        .file("src/llama/shim.cpp")
        .compile("hearth_shim");
    println!("cargo:rustc-env=HEARTH_CPU_LEVEL={}", cpu_level());
}

/// Name of the instruction set that ggml is compiled for, as llama-cpp-sys-2 decides it from the target
/// features: without `target-cpu` it takes AVX2 on x86-64 and plain armv8-a on aarch64.
fn cpu_level() -> String {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let has = |name: &str| features.split(',').any(|feature| feature == name);
    match arch.as_str() {
        "x86_64" if has("avx512vnni") => "avx512vnni".to_owned(),
        "x86_64" => "avx2".to_owned(),
        "aarch64" if has("i8mm") => "armv8.6-a+i8mm".to_owned(),
        "aarch64" if has("dotprod") => "armv8.2-a+dotprod".to_owned(),
        "aarch64" => "armv8-a".to_owned(),
        other => other.to_owned(),
    }
}
