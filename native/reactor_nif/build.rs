//! Tells the linker where the chosen Python's shared library lives, and the
//! crate which interpreter it was built for.

fn main() {
    let config = pyo3_build_config::get();
    if let Some(dir) = config.lib_dir() {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{dir}");
    }
    let executable = config.executable().unwrap_or("python3");
    println!("cargo:rustc-env=REACTOR_PYTHON={executable}");
    pyo3_build_config::use_pyo3_cfgs();
}
