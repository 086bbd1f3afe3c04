//! A recorded profile on its way to its file: written now and then, whole or not at all, and never in place of a better one.

use parking_lot::Mutex;
use rafs_vfs::Rafs;
use rafs_vfs::profile::{MAX_PROFILE_SIZE, Profile, ProfileError, Recorder};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::NamedTempFile;

/// How long is recorded, from the first read on. What is wanted later is no part of a start.
const LIMIT: Duration = Duration::from_secs(300);
/// Time between two writes, while there is something new.
pub(crate) const INTERVAL: Duration = Duration::from_secs(30);

/// Why a profile is not there to be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoProfile {
    #[error("cannot be read")]
    Read(#[source] io::Error),
    #[error("is longer than a profile can be")]
    Long,
    #[error(transparent)]
    Parse(ProfileError),
}

/// Where the profile of `rafs` is when it was told to be at `path`: in a directory, under the name that profiles call the image.
pub(crate) fn place(path: &Path, rafs: &Rafs) -> PathBuf {
    if path.is_dir() { path.join(format!("{}.profile", rafs.profile_digest())) } else { path.to_path_buf() }
}

/// Reads a profile; `None` where there is no file.
pub(crate) fn load(path: &Path) -> Result<Option<Profile>, NoProfile> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(NoProfile::Read)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_PROFILE_SIZE + 1).read_to_end(&mut bytes).map_err(NoProfile::Read)?;
    if bytes.len() as u64 > MAX_PROFILE_SIZE {
        return Err(NoProfile::Long);
    }
    Profile::parse(&bytes).map(Some).map_err(NoProfile::Parse)
}

/// How good a profile is: its chunks, then whether it is complete.
type Worth = (u64, bool);

fn worth(profile: &Profile) -> Worth {
    (profile.chunks(), profile.complete)
}

/// A recording that is written to a file.
#[derive(Debug)]
pub(crate) struct Recording {
    path: PathBuf,
    recorder: Arc<Recorder>,
    /// What the file holds of this image. Only what is better takes its place.
    held: Mutex<Worth>,
}

impl Recording {
    /// Starts to record `rafs` for the file at `path`. `None`, told, where there is nothing to record: the file holds a complete profile of this image,
    /// or something else than a profile, or the image is of a kind that cannot be recorded.
    pub(crate) fn start(rafs: &Rafs, path: &Path) -> Option<Arc<Self>> {
        let path = place(path, rafs);
        let shown = path.display();
        let held = held(&path, rafs)?;
        match rafs.record(LIMIT) {
            Ok(recorder) => {
                tracing::info!(
                    "what is read first is recorded in {shown}, for {LIMIT:?} from the first read on"
                );
                Some(Arc::new(Self { path, recorder, held: Mutex::new(held) }))
            }
            Err(error) => {
                tracing::warn!("nothing is recorded in {shown}: of this image it cannot be, {error}");
                None
            }
        }
    }

    /// Writes what was recorded, if that is more than the file holds. A failure is told, and tried again the next time.
    pub(crate) fn save(&self) {
        let mut held = self.held.lock();
        let profile = self.recorder.profile();
        let found = worth(&profile);
        if found <= *held {
            return;
        }
        let shown = self.path.display();
        if let Err(error) = write(&self.path, &profile.to_bytes()) {
            tracing::warn!("the recorded profile cannot be written to {shown}: {error}");
            return;
        }
        *held = found;
        let end = if profile.complete { "the recording is over" } else { "so far" };
        tracing::info!("{shown}: {} chunks in the order of their first reads; {end}", profile.chunks());
        if profile.complete {
            self.recorder.finish();
        }
    }

    /// Writes from time to time until the recording ends.
    pub(crate) async fn keep(self: Arc<Self>) {
        while self.recorder.is_recording() {
            tokio::time::sleep(INTERVAL).await;
            let recording = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || recording.save()).await.is_err() {
                // The daemon ends, and saves by itself.
                return;
            }
        }
    }
}

/// What the file at `path` holds of this image. `None`, told, where it must stay as it is.
fn held(path: &Path, rafs: &Rafs) -> Option<Worth> {
    let shown = path.display();
    match load(path) {
        Ok(None) => Some((0, false)),
        Ok(Some(profile)) if profile.image != rafs.profile_digest() => {
            tracing::warn!(
                "{shown} is the recorded profile of another image; it is replaced by one of this image"
            );
            Some((0, false))
        }
        Ok(Some(profile)) if profile.complete => {
            tracing::info!(
                "{shown} has {} chunks of this image and is complete: nothing is recorded",
                profile.chunks()
            );
            None
        }
        Ok(Some(profile)) => Some(worth(&profile)),
        Err(NoProfile::Parse(error)) if !matches!(error, ProfileError::Magic) => {
            tracing::warn!("{shown} {error}; it is replaced by a new profile");
            Some((0, false))
        }
        Err(error) => {
            tracing::warn!("{shown} {}; it is left alone, and nothing is recorded", describe(&error));
            None
        }
    }
}

/// One line about `error`.
pub(crate) fn describe(error: &NoProfile) -> String {
    match error {
        NoProfile::Read(source) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

/// Writes a file that appears whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use blob_cache::BlobCache;
    use rafs_format::{Compressor, Digest};
    use testkit::image;
    use testkit::reader::TestReader;

    /// An image of one file of `size` bytes in chunks of 4096.
    fn rafs(size: usize) -> Rafs {
        let content = testkit::blob::pattern(1, size);
        let image = image::of_files(&[("f", &content)], &image::options(4096, Compressor::None));
        let bootstrap = image.parsed();
        let open = |blob| BlobCache::without_disk(blob, TestReader::new(image.blob.clone())).map(Arc::new);
        let caches = bootstrap.blobs().iter().map(open).collect::<Result<_, _>>().unwrap();
        Rafs::new(bootstrap, caches).unwrap()
    }

    fn read(rafs: &Rafs, size: usize) {
        let nid = rafs.lookup(rafs.root(), b"f").unwrap().unwrap().nid;
        let cold = rafs.read(nid, 0, &mut vec![0; size]).unwrap();
        assert!(matches!(cold, rafs_vfs::Read::Cold(_)));
    }

    fn chunks(path: &Path) -> u64 {
        load(path).unwrap().unwrap().chunks()
    }

    #[test]
    fn only_what_is_better_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        for (size, held) in [(4096, 1), (3 * 4096, 3), (2 * 4096, 3)] {
            let rafs = rafs(16 * 4096);
            let recording = Recording::start(&rafs, &path).unwrap();
            recording.save();
            read(&rafs, size);
            recording.save();
            assert_eq!(chunks(&path), held);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no other file stays");
    }

    #[test]
    fn a_complete_profile_and_a_foreign_file_stay_and_all_else_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        let rafs = rafs(16 * 4096);
        let profile =
            |image, complete| Profile { image, complete, blobs: Vec::new(), runs: Vec::new() }.to_bytes();
        let mine = rafs.profile_digest();
        let damaged = [profile(mine, true), b"x".to_vec()].concat();
        let kept: [(&[u8], bool); 5] = [
            (&profile(mine, true), true),
            (b"root:x:0:0", true),
            (&profile(mine, false), false),
            (&profile(Digest([1; 32]), true), false),
            (&damaged, false),
        ];
        for (bytes, stays) in kept {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(Recording::start(&rafs, &path).is_none(), stays);
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        std::fs::write(&path, vec![b'x'; usize::try_from(MAX_PROFILE_SIZE).unwrap() + 1]).unwrap();
        assert!(Recording::start(&rafs, &path).is_none());
    }

    #[test]
    fn in_a_directory_it_is_named_after_the_image_and_a_failure_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let rafs = rafs(16 * 4096);
        let recording = Recording::start(&rafs, dir.path()).unwrap();
        let path = dir.path().join(format!("{}.profile", rafs.profile_digest()));
        read(&rafs, 1);
        std::fs::create_dir(&path).unwrap();
        recording.save();
        std::fs::remove_dir(&path).unwrap();
        recording.save();
        assert_eq!(chunks(&path), 1);
    }
}
