//! Arguments of `create` for files whose data is elsewhere, and where their image goes.

use super::{CreateArgs, Kind};
use anyhow::{Context, bail, ensure};
use clap::Args;
use rafs_builder::attributes::ExternalFiles;
use rafs_builder::create::{ExternalImage, Input, Options, Report};
use rafs_builder::output::{Output, Outputs, Place};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Files whose data is elsewhere.
#[derive(Debug, Args)]
pub(super) struct ExternalArgs {
    /// Leave the data of these files of a directory where it is: lines of `PATH type=external` with blob_index, blob_id, chunk_size, chunk_0_compressed_offset, compressed_size, crcs and, for stand-ins that are empty, file_size. They get an image of their own: beside the bootstrap as `.external`, or in --external-blob.
    #[arg(long, value_name = "FILE")]
    attributes: Option<PathBuf>,
    /// With --blob-inline-meta write the image of the files of --attributes to this file or pipe, also one without files; otherwise it stays empty.
    #[arg(long, value_name = "FILE")]
    pub(super) external_blob: Option<PathBuf>,
}

impl ExternalArgs {
    /// Refuses what does not go with these options.
    pub(super) fn check(&self, args: &CreateArgs) -> anyhow::Result<()> {
        let options = [(&self.attributes, "--attributes"), (&self.external_blob, "--external-blob")];
        let Some((_, option)) = options.into_iter().find(|(path, _)| path.is_some()) else { return Ok(()) };
        if let Some(kind) = args.kind.filter(|kind| *kind != Kind::DirRafs) {
            bail!("conversion type `{}` conflicts with `{option}`", kind.name());
        }
        let version = &args.fs_version;
        ensure!(version == "6", "{option} conflicts with --fs-version {version}: it needs RAFS v6");
        let lost = args.blob_inline_meta && self.external_blob.is_none();
        ensure!(!lost, "--attributes with --blob-inline-meta needs --external-blob");
        Ok(())
    }

    /// The files that are listed.
    pub(super) fn files(&self, chunk_size: u32) -> anyhow::Result<ExternalFiles> {
        let Some(path) = &self.attributes else { return Ok(ExternalFiles::default()) };
        let files = ExternalFiles::read(path, chunk_size);
        files.with_context(|| format!("--attributes {} cannot be used", path.display()))
    }

    /// The file that the image becomes beside `bootstrap`, if there is one.
    pub(super) fn beside(&self, bootstrap: Option<&Path>) -> Option<PathBuf> {
        self.attributes.as_ref()?;
        bootstrap.map(|path| path.with_extension("external"))
    }
}

/// The image of external files, put together and not written yet.
pub(super) struct Pending {
    image: ExternalImage,
    has_files: bool,
    /// Outputs that are files are started before the main image is built: its `.external`, and --external-blob.
    bootstrap: Option<Output>,
    blob: Option<Output>,
}

/// What became of it.
#[derive(Default)]
pub(super) struct Written {
    pub bootstrap: PathBuf,
    pub blobs: Vec<String>,
}

impl Pending {
    /// Puts the image together; `None` where nobody asked for one.
    pub(super) fn new(
        args: &CreateArgs,
        input: &Input<'_>,
        options: &Options,
        outputs: &Outputs,
    ) -> anyhow::Result<Option<Self>> {
        let external = &args.external;
        if external.attributes.is_none() && external.external_blob.is_none() {
            return Ok(None);
        }
        let Input::Directory(root) = input else {
            bail!("--attributes and --external-blob need a directory: {} is none", args.source.display())
        };
        let image = ExternalImage::of(root, options);
        let image = image.with_context(|| format!("cannot build an image of {}", root.display()))?;
        if image.skipped_xattrs > 0 {
            tracing::warn!(
                "{} extended attributes of external files, outside the namespaces of Linux, were left out",
                image.skipped_xattrs
            );
        }
        let has_files = !options.external.files.is_empty();
        let inline = args.blob_inline_meta || !has_files;
        let beside = external.beside(args.bootstrap.as_deref()).filter(|_| !inline);
        let start = |path: Option<PathBuf>| {
            path.filter(|path| !is_fifo(path)).map(|path| outputs.start(Place::File(path))).transpose()
        };
        let (bootstrap, blob) = (start(beside)?, start(external.external_blob.clone())?);
        Ok(Some(Self { image, has_files, bootstrap, blob }))
    }

    /// Writes it, once the main image is. A pipe is opened only now: its reader may read the one of the main image first.
    pub(super) fn write(
        self,
        args: &CreateArgs,
        report: &Report,
        options: &Options,
        outputs: &Outputs,
    ) -> anyhow::Result<Written> {
        let mut done = Vec::new();
        let mut written = Written {
            blobs: self.image.blobs.iter().map(ToString::to_string).collect(),
            ..Written::default()
        };
        if self.has_files && !args.blob_inline_meta {
            written.bootstrap = match args.bootstrap.as_deref() {
                Some(path) => path.with_extension("external"),
                // Named like the bootstrap, whose name has no extension.
                None => report.bootstrap_path.with_extension("external"),
            };
            let open = || outputs.start(Place::File(written.bootstrap.clone()));
            let mut output = self.bootstrap.map_or_else(open, Ok)?;
            self.image.write(&mut output)?;
            done.push((output, None));
        }
        if let Some(path) = &args.external.external_blob {
            let output = self.blob.map_or_else(|| outputs.start(Place::File(path.clone())), Ok)?;
            let output =
                if args.blob_inline_meta { self.image.write_as_blob(output, options)? } else { output };
            done.push((output, None));
        }
        Outputs::commit(done)?;
        Ok(written)
    }
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo())
}
