//! The command line: see `asynctls --help`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
