//! Small images built from files in memory, by the real builder.

pub use rafs_builder::create::{Options, Version};

use rafs_builder::create::{Compressor, Input, create};
use rafs_builder::output::{Outputs, Place};
use rafs_format::Bootstrap;
use std::path::Path;

/// An image: its bootstrap, and the blob that all its data is in.
#[derive(Debug, Clone)]
pub struct TestImage {
    /// The bytes of the bootstrap.
    pub bootstrap: Vec<u8>,
    /// The bytes of the blob; empty for an image without data.
    pub blob: Vec<u8>,
}

impl TestImage {
    /// The bootstrap, parsed.
    ///
    /// # Panics
    /// When it cannot be.
    #[expect(clippy::expect_used, reason = "a test that cannot make its input has failed")]
    pub fn parsed(&self) -> Bootstrap<Vec<u8>> {
        Bootstrap::parse(self.bootstrap.clone()).expect("bootstrap")
    }
}

/// How small images are built.
pub fn options(chunk_size: u32, compressor: Compressor) -> Options {
    Options { chunk_size, compressor, threads: 1, ..Options::default() }
}

/// Builds `source`.
///
/// # Panics
/// When it cannot be built.
#[expect(clippy::expect_used, reason = "a test that cannot make its input has failed")]
pub fn build(source: Input<'_>, options: &Options) -> TestImage {
    let dir = tempfile::tempdir().expect("temporary directory");
    let places = (Place::File(dir.path().join("boot")), Place::File(dir.path().join("blob")));
    let report = create(source, options, places, &Outputs::new(), &|_| {}).expect("image");
    let read = |name: &str| std::fs::read(dir.path().join(name)).expect("output");
    let blob = if report.blob.is_some() { read("blob") } else { Vec::new() };
    TestImage { bootstrap: read("boot"), blob }
}

/// An image of files with these names and contents, in one directory.
///
/// # Panics
/// When it cannot be built.
#[expect(clippy::expect_used, reason = "a test that cannot make its input has failed")]
pub fn of_files(files: &[(&str, &[u8])], options: &Options) -> TestImage {
    let dir = tempfile::tempdir().expect("temporary directory");
    for (name, content) in files {
        let path = dir.path().join(Path::new(name));
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        std::fs::write(path, content).expect("file");
    }
    build(Input::Directory(dir.path().to_path_buf()), options)
}
