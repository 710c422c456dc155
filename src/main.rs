//! The command line: see `asynctls --help`.

fn main() {}
