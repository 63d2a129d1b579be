//! Applies a mutant to a copy of the tree: `mutate MUTANT TREE`.

use std::{error::Error, fs, path::PathBuf};

use simulation::mutants::Mutant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(mutant), Some(tree)) = (arguments.next(), arguments.next()) else {
        return Err("mutate MUTANT TREE".into());
    };
    let mutant = Mutant::parse(&fs::read_to_string(mutant)?)?;
    let mutated = mutant.mutated(&tree)?;
    fs::write(tree.join(&mutant.path), mutated)?;
    Ok(())
}
