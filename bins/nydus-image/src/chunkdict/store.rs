//! `nydus-image chunkdict add`, `remove`, `list`, `condemn` and `sweep`: what is in a chunk store, and which blobs nothing there uses.

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use rafs_builder::chunkdict::{self, BlobId, Counts, Round, Store};
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;

/// Subcommands about a store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Put an image into a chunk store, in the place of the one with its name.
    Add(AddArgs),
    /// Take images out of a chunk store.
    Remove(RemoveArgs),
    /// List the images of a chunk store.
    List(ListArgs),
    /// Begin a collection: from now on nobody is given chunks of blobs that no image has.
    Condemn(CondemnArgs),
    /// End a collection: print the blobs that may be deleted.
    Sweep(SweepArgs),
}

/// Which store.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The chunk store, a file.
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
}

impl StoreArgs {
    /// Opens a store that is there.
    fn open(&self) -> anyhow::Result<Store> {
        ensure!(self.store.is_file(), "there is no chunk store {}", self.store.display());
        Ok(chunkdict::open_store(&self.store)?)
    }
}

/// Arguments of `chunkdict add`.
#[derive(Debug, Args)]
#[command(after_help = ADD_HELP)]
pub struct AddArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Name of the image in the store, for example REPOSITORY:TAG.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Its blobs were stored just now, so that they are there even if they were collected before.
    #[arg(long)]
    stored: bool,
    /// Bootstrap file, or a blob with its bootstrap inside.
    #[arg(value_name = "BOOTSTRAP")]
    bootstrap: PathBuf,
}

const ADD_HELP: &str = "The store is made if it is not there. An image that uses a blob which may be deleted by now is refused: build it again, or give --stored.

Examples:
  nydus-image create --chunk-dict store=/var/lib/chunks -B image.boot -D blobs layer.tar
  nydus-image chunkdict add --store /var/lib/chunks --name registry/app:1.2 image.boot
  nydus-image chunkdict remove --store /var/lib/chunks registry/app:1.0
  nydus-image chunkdict condemn --store /var/lib/chunks
  (when the builds that run now are through and their images are added)
  nydus-image chunkdict sweep --store /var/lib/chunks --round 1";

/// Arguments of `chunkdict remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Images by the names that they were added under.
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Arguments of `chunkdict list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Count everything, which also checks the store, and print it as JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `chunkdict condemn`.
#[derive(Debug, Args)]
pub struct CondemnArgs {
    #[command(flatten)]
    store: StoreArgs,
}

/// Arguments of `chunkdict sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The round that `condemn` printed.
    #[arg(long, value_name = "NUMBER")]
    round: u64,
}

/// Runs one of them.
pub fn run(command: &StoreCommand) -> anyhow::Result<()> {
    match command {
        StoreCommand::Add(args) => add(args),
        StoreCommand::Remove(args) => remove(args),
        StoreCommand::List(args) => list(args),
        StoreCommand::Condemn(args) => {
            let (round, blobs) = args.store.open()?.condemn()?;
            writeln!(io::stdout(), "round {}", u64::from(round))?;
            print_ids(&blobs)
        }
        StoreCommand::Sweep(args) => print_ids(&args.store.open()?.sweep(Round::from(args.round))?),
    }
}

fn add(args: &AddArgs) -> anyhow::Result<()> {
    // Before the store is made for nothing.
    ensure!(args.bootstrap.is_file(), "{} is no file", args.bootstrap.display());
    let store = chunkdict::open_store(&args.store.store)?;
    chunkdict::add_to_store(&store, &args.name, &args.bootstrap, args.stored)?;
    tracing::info!("{} is in the chunk store as {:?}", args.bootstrap.display(), args.name);
    Ok(())
}

/// Takes out those that are there; one that is not makes it a failure.
fn remove(args: &RemoveArgs) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let mut missing = Vec::new();
    for name in &args.names {
        if !store.remove(name)? {
            missing.push(name.as_str());
        }
    }
    ensure!(missing.is_empty(), "not in the chunk store: {}", missing.join(", "));
    Ok(())
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let names = store.images()?;
    let mut out = io::stdout().lock();
    if !args.json {
        names.iter().try_for_each(|name| writeln!(out, "{name}"))?;
        return Ok(());
    }
    let Counts { live_blobs, condemned_blobs, chunks, references, .. } =
        store.verify().with_context(|| format!("chunk store {}", args.store.store.display()))?;
    let value = json!({
        "images": names,
        "live_blobs": live_blobs,
        "condemned_blobs": condemned_blobs,
        "chunks": chunks,
        "references": references,
    });
    Ok(writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?)
}

fn print_ids(blobs: &[BlobId]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    Ok(blobs.iter().try_for_each(|id| writeln!(out, "{id}"))?)
}
