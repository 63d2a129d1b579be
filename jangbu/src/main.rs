//! `jangbu`: the shop's engine as a program.

fn main() -> std::process::ExitCode {
    jangbu::main()
}
