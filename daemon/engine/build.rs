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
    let cache = prefix.join("build/CMakeCache.txt");
    println!("cargo:rerun-if-changed={}", cache.display());
    let settings = std::fs::read_to_string(&cache).expect("what CMake was told");
    println!("cargo:rustc-env=HEARTH_CPU_LEVEL={}", cpu_level(&settings));
}

/// Name of the instruction set that ggml's kernels were compiled for: by what CMake was told, since llama-cpp-sys-2 does
/// not say, and a package is made with other settings than its own (`deploy/package/cpu-level.cmake`).
fn cpu_level(settings: &str) -> &'static str {
    let value = |key: &str| {
        let line = settings.lines().find(|line| line.split(':').next() == Some(key))?;
        Some(line.split_once('=')?.1)
    };
    let is_on = |key: &str| value(key) == Some("ON");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    match (arch.as_str(), value("GGML_CPU_ARM_ARCH").unwrap_or_default()) {
        _ if is_on("GGML_NATIVE") => "native",
        ("aarch64", arm) if arm.contains("i8mm") => "i8mm",
        ("aarch64", arm) if arm.contains("dotprod") => "dotprod",
        ("aarch64", _) => "armv8-a",
        ("x86_64", _) if is_on("GGML_AVX512_VNNI") => "avx512vnni",
        ("x86_64", _) if is_on("GGML_AVX2") => "avx2",
        ("x86_64", _) => "sse42",
        _ => "as compiled",
    }
}
