//! `completions` and `man`: what a package installs beside the program, made of its own arguments.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::exit::Failure;
use super::json::Line;
use super::output::Output;

/// Writes the completions of a shell to stdout.
///
/// For example: hearth completions bash > ~/.local/share/bash-completion/completions/hearth
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Writes the manual: all its pages to stdout, or each to a file.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write one file for each page into this folder, which is made where it is missing.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs, mut cli: Command, out: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "hearth", &mut script);
    if out.is_json() {
        let text = String::from_utf8_lossy(&script);
        return out.json(&Line::Completions { shell: args.shell.to_string(), text: &text });
    }
    out.raw(&script)
}

pub(super) fn man(args: &ManArgs, mut cli: Command, out: &mut Output) -> Result<(), Failure> {
    cli.build();
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
    }
    pages(&cli).into_iter().try_for_each(|page| write(page, args.out.as_deref(), out))
}

/// A command and all below it, each with a page of its own.
fn pages(command: &Command) -> Vec<Man> {
    let below = command.get_subcommands().filter(|below| !below.is_hide_set()).flat_map(pages);
    std::iter::once(Man::new(command.clone())).chain(below).collect()
}

fn write(page: Man, folder: Option<&Path>, out: &mut Output) -> Result<(), Failure> {
    let name = page.get_filename();
    let mut text = Vec::new();
    page.render(&mut text).map_err(Failure::Write)?;
    match folder {
        Some(folder) => {
            let path = folder.join(name);
            std::fs::write(&path, &text).map_err(|source| failed(&path, source))?;
            let path = path.to_string_lossy();
            if out.is_json() { out.json(&Line::Written { path: &path }) } else { out.line(&path) }
        }
        None if out.is_json() => {
            out.json(&Line::ManPage { name: &name, text: &String::from_utf8_lossy(&text) })
        }
        None => out.raw(&text),
    }
}

fn failed(path: &Path, source: std::io::Error) -> Failure {
    Failure::WriteFile { path: path.to_owned(), source }
}
