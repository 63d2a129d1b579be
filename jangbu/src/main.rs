//! The program; all that it does is in the library.

/// Events and answers are made on one thread and freed on another, by the thousand: this allocator is made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    jangbu::main()
}
