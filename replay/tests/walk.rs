//! docs/analysts.md, done as it says: every `console` block is run with the built binaries, and has to print what stands there.
//!
//! With `JANGBU_TEST_WRITE_WALK` set it writes what is printed now into the page instead.
//!
//! The page makes its shop with `jangbu generate`. That binary is another package's, so this one plays its part: started again as `jangbu`, it
//! does what the library does. Hence it has a `main` of its own.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// Set for the process that is to be `jangbu`.
const AS_JANGBU: &str = "JANGBU_TEST_AS_JANGBU";

const WRITE: &str = "JANGBU_TEST_WRITE_WALK";

fn main() -> ExitCode {
    if env::var_os(AS_JANGBU).is_some() {
        return jangbu::main();
    }
    // Asked for by name, as `cargo test one_test` does, it is one of those that are filtered out.
    let mut filters = env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    if filters.peek().is_some() && !filters.any(|filter| "walk".contains(&filter)) {
        return ExitCode::SUCCESS;
    }
    if env::args().any(|argument| argument == "--list") {
        println!("walk: test");
        return ExitCode::SUCCESS;
    }
    walk()
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/analysts.md")
}

/// A command line of the page, and what it says that this prints.
struct Step {
    line: usize,
    command: String,
    printed: String,
}

fn walk() -> ExitCode {
    let text = fs::read_to_string(page()).expect("the page");
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let bin = binaries(scratch.path());
    let mut written = String::new();
    let (mut steps, mut wrong) = (0, 0);
    let mut lines = text.lines().enumerate().peekable();
    while let Some((_, line)) = lines.next() {
        written.push_str(line);
        written.push('\n');
        if line != "```console" {
            continue;
        }
        while let Some((number, line)) = lines.next_if(|(_, line)| *line != "```") {
            let command = line
                .strip_prefix("$ ")
                .unwrap_or_else(|| panic!("line {}: a block begins with a command", number + 1));
            let mut step = Step {
                line: number + 1,
                command: command.to_owned(),
                printed: String::new(),
            };
            // A command goes on in the next line where the shell's does.
            while step.command.ends_with('\\')
                && let Some((_, more)) = lines.next()
            {
                step.command.push('\n');
                step.command.push_str(more.strip_prefix("> ").unwrap_or(more));
            }
            while let Some((_, line)) = lines.next_if(|(_, line)| *line != "```" && !line.starts_with("$ ")) {
                step.printed.push_str(line);
                step.printed.push('\n');
            }
            let printed = run(scratch.path(), &bin, &step.command);
            steps += 1;
            if printed != step.printed {
                wrong += 1;
                if env::var_os(WRITE).is_none() {
                    tell(&step, &printed);
                }
            }
            written.push_str("$ ");
            written.push_str(&step.command.replace('\n', "\n> "));
            written.push('\n');
            written.push_str(&printed);
        }
    }
    if env::var_os(WRITE).is_some() {
        fs::write(page(), written).expect("the page can be written");
        println!("the page is written: {steps} commands, {wrong} of them printed something else");
        return ExitCode::SUCCESS;
    }
    println!("test walk: {steps} commands of docs/analysts.md, {wrong} printed something else");
    if wrong == 0 && steps > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn tell(step: &Step, printed: &str) {
    println!("docs/analysts.md, line {}: $ {}", step.line, step.command);
    let (is, should): (Vec<_>, Vec<_>) = (printed.lines().collect(), step.printed.lines().collect());
    for at in 0..is.len().max(should.len()) {
        match (should.get(at), is.get(at)) {
            (Some(should), Some(is)) if should == is => {}
            (should, is) => {
                println!("  the page: {}", should.unwrap_or(&"(nothing)"));
                println!("  printed:  {}", is.unwrap_or(&"(nothing)"));
            }
        }
    }
}

/// A directory with both programs under their names.
fn binaries(scratch: &Path) -> PathBuf {
    let bin = scratch.join("bin");
    fs::create_dir(&bin).expect("a directory");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_replay"), bin.join("replay")).expect("a link");
    let this = env::current_exe().expect("this program");
    let script = format!("#!/bin/sh\n{AS_JANGBU}=1 exec '{}' \"$@\"\n", this.display());
    let jangbu = bin.join("jangbu");
    fs::write(&jangbu, script).expect("written");
    fs::set_permissions(&jangbu, fs::Permissions::from_mode(0o755)).expect("made executable");
    bin
}

/// What a person sees who types this: both outputs.
fn run(scratch: &Path, bin: &Path, command: &str) -> String {
    let work = scratch.join("work");
    fs::create_dir_all(&work).expect("a directory");
    let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("JANGBU_") {
            shell.env_remove(name);
        }
    }
    let output = shell
        .current_dir(&work)
        .args(["-c", &format!("{{ {command}\n}} 2>&1")])
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}
