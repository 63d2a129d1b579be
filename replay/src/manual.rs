//! What a shell and `man` need to know of the command line.

use std::{
    io::{Write as _, stdout},
    path::Path,
};

use clap::{Command, CommandFactory as _};

use crate::{
    Done,
    arguments::{Arguments, CompletionsArgs, ManArgs},
    failure::{Failure, OK},
};

pub(crate) fn completions(arguments: &CompletionsArgs) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "replay", &mut script);
    stdout().write_all(&script)?;
    Ok(OK)
}

pub(crate) fn man(arguments: &ManArgs) -> Done {
    let mut replay = Arguments::command();
    replay.build();
    // It has no page of its own.
    let replay = replay.mut_subcommand("help", |help| help.hide(true));
    match &arguments.dir {
        None => stdout().write_all(&page(&replay)?)?,
        Some(directory) => pages(&replay, directory)?,
    }
    Ok(OK)
}

fn page(command: &Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

/// `replay.1`, `replay-cat.1` and so on, as `man replay cat` looks for them.
fn pages(replay: &Command, directory: &Path) -> Result<(), Failure> {
    let unwritable = |error: std::io::Error| Failure::input(format_args!("{} cannot be written: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(unwritable)?;
    let write = |name: String, command: &Command| {
        let page = page(command)?;
        std::fs::write(directory.join(format!("{name}.1")), page).map_err(unwritable)
    };
    write("replay".to_owned(), replay)?;
    for command in replay.get_subcommands().filter(|command| command.get_name() != "help") {
        write(format!("replay-{}", command.get_name()), command)?;
    }
    Ok(())
}
