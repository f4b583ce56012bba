//! Builds the library that holds a program before its `main`, to be carried in the server.

use std::path::Path;

const SOURCE: &str = "src/postgres/spare/hold.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let directory = std::env::var_os("OUT_DIR").expect("cargo names a directory for what is built");
    let library = Path::new(&directory).join("hold.so");
    let mut compiler = cc::Build::new();
    compiler.opt_level(2).debug(false).pic(true).warnings(true).extra_warnings(true);
    compiler.flag("-fvisibility=hidden").warnings_into_errors(true);
    let mut command = compiler.get_compiler().to_command();
    command.args(["-shared", "-Wl,-z,defs", "-o"]).arg(&library).arg(SOURCE);
    let status = command.status().expect("run the C compiler");
    assert!(status.success(), "compile {SOURCE}: {status}");
}
