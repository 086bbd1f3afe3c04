//! The store against a model of maps: random histories with collection in between, kills, damage, and threads.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use chunk_store::{Counts, Round, Store, StoreError};
use common::{blob, chunk, digest, image};
use proptest::prelude::*;
use rafs_format::{Blob, BlobId, Bootstrap, Chunk, DigestAlgorithm};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Blobs that there are, and chunks in each.
const BLOBS: u8 = 5;
const EACH: u32 = 6;

fn id(number: u8) -> BlobId {
    BlobId::new(&format!("blob-{number}")).unwrap()
}

/// Which chunks of which blobs an image uses. Two blobs with numbers of one remainder of 3 hold the same data.
type Uses = BTreeSet<(u8, u32)>;

fn data(blob: u8, index: u32) -> rafs_format::Digest {
    digest(u64::from(blob % 3) * 100 + u64::from(index))
}

fn build(uses: &Uses) -> (Bootstrap<Vec<u8>>, Vec<Blob>) {
    let numbers: BTreeSet<u8> = uses.iter().map(|(blob, _)| *blob).collect();
    let blobs: Vec<Blob> = numbers.iter().map(|number| blob(id(*number).as_str(), EACH)).collect();
    let place =
        |number: u8| u32::try_from(numbers.iter().position(|other| *other == number).unwrap()).unwrap();
    let chunks = uses.iter().map(|&(b, index)| chunk(place(b), index, data(b, index), 100 + index)).collect();
    (image(chunks, &blobs), blobs)
}

/// What the store should know.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    images: BTreeMap<String, Uses>,
    /// Chunks that are known of each blob that was not swept.
    known: BTreeMap<u8, BTreeSet<u32>>,
    condemned: BTreeMap<u8, u64>,
    swept: BTreeSet<u8>,
    rounds: u64,
}

impl Model {
    /// `false`: a blob may be gone.
    fn add(&mut self, name: &str, uses: &Uses, stored: bool) -> bool {
        if !stored && uses.iter().any(|(blob, _)| self.swept.contains(blob)) {
            return false;
        }
        for &(blob, index) in uses {
            self.swept.remove(&blob);
            self.condemned.remove(&blob);
            self.known.entry(blob).or_default().insert(index);
        }
        self.images.insert(name.to_owned(), uses.clone());
        true
    }

    fn is_used(&self, blob: u8) -> bool {
        self.images.values().flatten().any(|(used, _)| *used == blob)
    }

    fn condemn(&mut self) -> Vec<BlobId> {
        self.rounds += 1;
        let unused: Vec<u8> = self.known.keys().copied().filter(|blob| !self.is_used(*blob)).collect();
        for blob in &unused {
            self.condemned.entry(*blob).or_insert(self.rounds);
        }
        unused.into_iter().map(id).collect()
    }

    fn sweep(&mut self, round: u64) -> Vec<BlobId> {
        let due: Vec<u8> =
            self.condemned.iter().filter(|(_, since)| **since <= round).map(|(blob, _)| *blob).collect();
        for blob in &due {
            self.condemned.remove(blob);
            self.known.remove(blob);
            self.swept.insert(*blob);
        }
        due.into_iter().map(id).collect()
    }

    fn counts(&self) -> Counts {
        Counts {
            images: self.images.len() as u64,
            live_blobs: (self.known.len() - self.condemned.len()) as u64,
            condemned_blobs: self.condemned.len() as u64,
            chunks: self.known.values().map(|chunks| chunks.len() as u64).sum(),
            references: self.images.values().map(|uses| uses.len() as u64).sum(),
        }
    }

    /// Blobs in which a lookup may find a chunk.
    fn places(&self, wanted: rafs_format::Digest) -> BTreeSet<BlobId> {
        let live = self.known.iter().filter(|(blob, _)| !self.condemned.contains_key(blob));
        live.filter(|(blob, chunks)| chunks.iter().any(|index| data(**blob, *index) == wanted))
            .map(|(blob, _)| id(*blob))
            .collect()
    }

    fn assert_is(&self, store: &Store) {
        assert_eq!(store.verify().unwrap(), self.counts());
        assert_eq!(store.images().unwrap(), self.images.keys().cloned().collect::<Vec<_>>());
        for number in (0..3).flat_map(|blob| (0..EACH).map(move |index| (blob, index))) {
            let (wanted, size) = (data(number.0, number.1), 100 + number.1);
            let places = self.places(wanted);
            for asked in [size, 0] {
                let found = store.lookup(DigestAlgorithm::Blake3, &wanted, asked).unwrap();
                assert_eq!(found.is_some(), !places.is_empty(), "{number:?}");
                let Some((blob, found)) = found else { continue };
                assert!(places.contains(&blob.id));
                assert_eq!(found, Chunk { blob: found.blob, ..chunk(0, number.1, wanted, size) });
            }
            assert_eq!(store.lookup(DigestAlgorithm::Blake3, &wanted, size + 1).unwrap(), None);
            assert_eq!(store.lookup(DigestAlgorithm::Sha256, &wanted, size).unwrap(), None);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, Uses, bool),
    Remove(u8),
    Condemn,
    /// Sweeps the round so many before the last.
    Sweep(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let uses = prop::collection::btree_set((0..BLOBS, 0..EACH), 0..8);
    prop_oneof![
        5 => (0u8..4, uses, prop::bool::weighted(0.3)).prop_map(|(name, uses, stored)| Step::Add(name, uses, stored)),
        3 => (0u8..4).prop_map(Step::Remove),
        2 => Just(Step::Condemn),
        2 => (0u64..3).prop_map(Step::Sweep),
        1 => Just(Step::Reopen),
    ]
}

/// One round for a number, through the store: rounds count up from 1.
fn rounds(store: &Store, model: &mut Model, seen: &mut Vec<Round>) {
    let (round, condemned) = store.condemn().unwrap();
    assert_eq!(condemned.into_iter().collect::<BTreeSet<_>>(), model.condemn().into_iter().collect());
    seen.push(round);
}

fn add(store: &Store, name: &str, uses: &Uses, stored: bool) -> Result<(), StoreError> {
    let (bootstrap, blobs) = build(uses);
    let written: HashSet<BlobId> = blobs.iter().filter(|_| stored).map(|blob| blob.id.clone()).collect();
    store.add(name, &bootstrap, &blobs, &written)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn histories_agree_with_the_model(steps in prop::collection::vec(step(), 1..25)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let mut store = Store::open(&path).unwrap();
        let (mut model, mut seen) = (Model::default(), Vec::new());
        for step in steps {
            match step {
                Step::Add(name, uses, stored) => {
                    let name = format!("image-{name}");
                    match add(&store, &name, &uses, stored) {
                        Ok(()) => prop_assert!(model.add(&name, &uses, stored)),
                        Err(StoreError::Gone { .. }) => prop_assert!(!model.add(&name, &uses, stored)),
                        Err(other) => panic!("{other}"),
                    }
                }
                Step::Remove(name) => {
                    let name = format!("image-{name}");
                    prop_assert_eq!(store.remove(&name).unwrap(), model.images.remove(&name).is_some());
                }
                Step::Condemn => rounds(&store, &mut model, &mut seen),
                Step::Sweep(back) => {
                    let Some(at) = (seen.len() as u64).checked_sub(back + 1) else { continue };
                    let swept = store.sweep(seen[usize::try_from(at).unwrap()]).unwrap();
                    prop_assert_eq!(swept.into_iter().collect::<BTreeSet<_>>(), model.sweep(at + 1).into_iter().collect());
                }
                Step::Reopen => {
                    drop(store);
                    store = Store::open(&path).unwrap();
                }
            }
            model.assert_is(&store);
        }
    }
}

/// The step of a fixed history: the same for the program that is killed and for the model.
fn fixed_step(number: u64) -> (String, Option<Uses>) {
    let random = |salt: u64| {
        let digest = digest(number * 16 + salt).0;
        u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
    };
    let name = format!("image-{}", random(0) % 6);
    if random(1) % 3 == 0 {
        return (name, None);
    }
    let uses = (2..10).map(|salt| (u8::try_from(random(salt) % 5).unwrap(), random(salt + 100) % EACH));
    (name, Some(uses.collect()))
}

fn apply(model: &mut Model, number: u64) {
    match fixed_step(number) {
        (name, Some(uses)) => assert!(model.add(&name, &uses, false)),
        (name, None) => drop(model.images.remove(&name)),
    }
}

/// Not a test of its own: the program that is killed. Says the number of each step that is done.
#[test]
#[ignore = "started by a_kill_loses_nothing_that_was_done"]
fn victim() {
    let (Ok(path), Ok(first)) = (std::env::var("STORE"), std::env::var("FIRST")) else { return };
    let store = Store::open(Path::new(&path)).unwrap();
    for number in first.parse::<u64>().unwrap().. {
        match fixed_step(number) {
            (name, Some(uses)) => add(&store, &name, &uses, false).unwrap(),
            (name, None) => drop(store.remove(&name).unwrap()),
        }
        println!("did {number}");
    }
}

/// SIGKILL at any time: what was said to be done is there, what was not is there whole or not at all.
#[test]
fn a_kill_loses_nothing_that_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (mut model, mut next) = (Model::default(), 0);
    for kill in 0..12u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--ignored", "--nocapture", "--test-threads", "1"])
            .env("STORE", &path)
            .env("FIRST", next.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let done =
            |line: &String| line.rsplit_once("did ").and_then(|(_, number)| number.parse::<u64>().ok());
        // After a few steps, and then some microseconds into the next.
        let first = said
            .by_ref()
            .map_while(Result::ok)
            .filter_map(|line| done(&line))
            .nth(usize::try_from(kill % 5).unwrap());
        assert!(first.is_some(), "the victim died by itself");
        std::thread::sleep(std::time::Duration::from_micros(kill * 977));
        child.kill().unwrap();
        child.wait().unwrap();
        let last = said.map_while(Result::ok).filter_map(|line| done(&line)).last().or(first).unwrap();
        while next <= last {
            apply(&mut model, next);
            next += 1;
        }
        let store = Store::open(&path).unwrap();
        let counts = store.verify().unwrap();
        let mut further = model.clone();
        apply(&mut further, next);
        // The step that was being done when it was killed may be done; twice is as good as once.
        if counts != model.counts()
            || store.images().unwrap() != model.images.keys().cloned().collect::<Vec<_>>()
        {
            (model, next) = (further, next + 1);
        }
        let both_fit = counts == model.counts();
        assert!(both_fit, "neither before nor after step {next}");
        for uses in model.images.values() {
            for &(blob, index) in uses {
                let found = store.lookup(DigestAlgorithm::Blake3, &data(blob, index), 100 + index).unwrap();
                assert!(found.is_some(), "chunk {index} of blob {blob} is lost");
            }
        }
        // The next victim does the step again in any case.
    }
    assert!(next > 12, "{next}");
}

/// Between the two steps of a collection an image brings its blobs back; behind it, it is told that they may be gone.
#[test]
fn collection_and_builds_that_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (first, second) = (Uses::from([(0, 0), (0, 1)]), Uses::from([(1, 0)]));
    add(&store, "a", &first, false).unwrap();
    add(&store, "b", &second, false).unwrap();
    assert_eq!(store.condemn().unwrap().1, [], "both are used");
    assert!(store.remove("a").unwrap() && store.remove("b").unwrap());
    let (round, condemned) = store.condemn().unwrap();
    assert_eq!(condemned, [id(0), id(1)]);
    assert_eq!(store.lookup(DigestAlgorithm::Blake3, &data(0, 0), 0).unwrap(), None);
    // It looked before.
    add(&store, "c", &Uses::from([(0, 1)]), false).unwrap();
    assert_eq!(store.sweep(round).unwrap(), [id(1)]);
    assert!(
        store.lookup(DigestAlgorithm::Blake3, &data(0, 0), 0).unwrap().is_some(),
        "its blob is used again"
    );
    let late = add(&store, "d", &second, false);
    assert!(matches!(late, Err(StoreError::Gone { id: gone }) if gone == id(1)));
    assert_eq!(store.images().unwrap(), ["c"]);
    add(&store, "d", &second, true).unwrap();
    assert_eq!(store.verify().unwrap().images, 2);
    assert_eq!(store.sweep(round).unwrap(), []);
}

/// Threads that add and remove while another one collects: what is added is found.
#[test]
fn threads() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0u8..3 {
            let store = &store;
            scope.spawn(move || {
                let name = format!("image-{thread}");
                for number in 0..12u32 {
                    let uses = Uses::from([(thread, number % EACH), ((thread + 1) % 3, number % EACH)]);
                    add(store, &name, &uses, true).unwrap();
                    for &(blob, index) in &uses {
                        let found = store.lookup(DigestAlgorithm::Blake3, &data(blob, index), 100 + index);
                        assert!(found.unwrap().is_some());
                    }
                    if number % 3 == 0 {
                        assert!(store.remove(&name).unwrap());
                    }
                }
            });
        }
        for _ in 0..12 {
            let (round, _) = store.condemn().unwrap();
            store.sweep(round).unwrap();
        }
    });
    assert_eq!(store.verify().unwrap().images, 3);
}

/// A flipped bit is an error, or changes nothing that anybody sees; never a panic, never another answer.
#[test]
fn damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let mut model = Model::default();
    for number in 0..12 {
        apply(&mut model, number);
        match fixed_step(number) {
            (name, Some(uses)) => add(&store, &name, &uses, false).unwrap(),
            (name, None) => drop(store.remove(&name).unwrap()),
        }
    }
    drop(store);
    let bytes = std::fs::read(&path).unwrap();
    let used: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
    let damaged = dir.path().join("damaged");
    let mut refused = 0;
    let mut try_one = |bad: &[u8]| {
        std::fs::write(&damaged, bad).unwrap();
        match Store::open(&damaged) {
            Ok(store) => model.assert_is(&store),
            Err(_) => refused += 1,
        }
    };
    for number in 0..300 {
        let mut bad = bytes.clone();
        let random = u64::from_le_bytes(digest(number).0[..8].try_into().unwrap());
        let at = used[usize::try_from(random % used.len() as u64).unwrap()];
        bad[at] ^= 1 << (random >> 61);
        try_one(&bad);
    }
    for length in [1, 16, 511, 4096, bytes.len() / 2, bytes.len() - 4096] {
        try_one(&bytes[..length]);
    }
    // Most bytes are those of older states, which nobody reads.
    assert!(refused > 20, "{refused}");
}

#[test]
fn other_files_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, [b"SQLite format 3\0".as_slice(), &[0; 4080]].concat()).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Sqlite { .. })));
    std::fs::write(dir.path().join("text"), "hello").unwrap();
    assert!(matches!(Store::open(&dir.path().join("text")), Err(StoreError::Open { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before, "it stays as it was");
    assert!(matches!(Store::open(Path::new("/no/such/store")), Err(StoreError::File { .. })));
    let own = dir.path().join("own");
    let _first = Store::open(&own).unwrap();
    let error = Store::open(&own).unwrap_err();
    assert!(matches!(&error, StoreError::Open { .. }), "{error}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Two images that say different things of one chunk of a blob: the second one is not let in.
#[test]
fn contradictions_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    add(&store, "a", &Uses::from([(0, 0)]), false).unwrap();
    let blobs = [blob(id(0).as_str(), EACH)];
    let lies = image(vec![chunk(0, 1, digest(5), 9), chunk(0, 0, digest(77), 100)], &blobs);
    let error = store.add("b", &lies, &blobs, &HashSet::new()).unwrap_err();
    assert!(matches!(error, StoreError::Contradiction { id: found } if found == id(0)));
    let other = [blob(id(0).as_str(), EACH + 1)];
    let lies = image(vec![chunk(0, 1, digest(5), 9)], &other);
    assert!(matches!(store.add("b", &lies, &other, &HashSet::new()), Err(StoreError::Contradiction { .. })));
    assert_eq!((store.images().unwrap(), store.verify().unwrap().chunks), (vec!["a".to_owned()], 1));
}

/// What is handed out whole: blobs of most images first, nothing of those that are condemned or not wanted.
#[test]
fn live_blobs_come_by_how_many_images_have_them() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    let store = Store::open(&at).unwrap();
    for (name, uses) in
        [("a", [(0, 1), (0, 2)]), ("b", [(3, 5), (3, 1)]), ("c", [(3, 1), (3, 4)]), ("d", [(1, 1), (1, 2)])]
    {
        let (bootstrap, blobs) = build(&uses.into_iter().collect());
        store.add(name, &bootstrap, &blobs, &HashSet::new()).unwrap();
    }
    let live = |wanted: &dyn Fn(&Blob) -> bool| {
        let mut found = Vec::new();
        store
            .live_blobs::<StoreError>(wanted, &mut |blob, chunks| {
                found.push((blob.id, chunks.iter().map(|chunk| chunk.index).collect::<Vec<_>>()));
                Ok(())
            })
            .unwrap();
        found
    };
    let (three, zero) = ((id(3), vec![1, 4, 5]), (id(0), vec![1, 2]));
    assert_eq!(live(&|_| true), [three.clone(), zero.clone(), (id(1), vec![1, 2])]);
    assert_eq!(live(&|blob| blob.id != id(3)), [zero.clone(), (id(1), vec![1, 2])]);
    assert!(store.remove("d").unwrap());
    let (round, condemned) = store.condemn().unwrap();
    assert_eq!((condemned, live(&|_| true)), (vec![id(1)], vec![three, zero]));
    let ids = || store.blobs().unwrap().into_iter().map(|blob| blob.id).collect::<Vec<_>>();
    assert_eq!(ids(), [id(0), id(3), id(1)]);
    assert_eq!(store.sweep(Round::from(u64::from(round))).unwrap(), [id(1)]);
    assert_eq!(ids(), [id(0), id(3)]);
    let taken = Store::open_patiently(&at, std::time::Duration::ZERO).unwrap_err();
    assert!(matches!(taken, StoreError::Open { .. }), "{taken}");
    let waiting = std::thread::spawn(move || Store::open_patiently(&at, std::time::Duration::from_secs(60)));
    drop(store);
    assert_eq!(waiting.join().unwrap().unwrap().images().unwrap(), ["a", "b", "c"]);
}
