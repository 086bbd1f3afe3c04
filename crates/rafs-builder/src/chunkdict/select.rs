//! Which chunks are worth a dictionary, learnt from the versions of images.
//!
//! Two ways. Images that resemble each other are put into clusters, and what nearly all images of a cluster have is chosen; this is done again with what is
//! left. And of each image what stays from one version to the next is chosen. Older versions teach, newer ones decide how wide a cluster and how
//! steady a chunk must be. Knows numbers of chunks and their sizes, no digests, files or blobs. Chunks of one version are sorted lists, so
//! that comparing two costs their lengths. The result depends on the input alone, not on its order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Of so many versions in ten one learns, of at least two; the newer ones are for trying.
const TRAIN: usize = 7;
/// Images that a cluster needs around one of its own, that one included.
const MIN_POINTS: usize = 10;
/// Distances, in hundredths, at which images may be neighbours.
const RADII: std::ops::RangeInclusive<u64> = 50..=90;
/// How steady chunks must be, in hundredths.
const THRESHOLDS: std::ops::RangeInclusive<u64> = 50..=80;
const STEP: usize = 5;
/// Of so many images in ten of a cluster a chunk is chosen.
const SHARED: usize = 9;
/// Rounds of looking for clusters, which end earlier when less than one image in so many is in one.
const ROUNDS: usize = 7;
const FEW: usize = 5;

/// One version of an image: its chunks as a sorted list of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Name of the image.
    pub image: String,
    /// Name of the version.
    pub version: String,
    /// Numbers of its chunks, sorted, each once.
    pub chunks: Vec<u32>,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Numbers of chunks, sorted.
    pub chunks: Vec<u32>,
    /// Images that are in no cluster: of them only what stays in their own versions is chosen.
    pub alone: Vec<String>,
}

/// Chooses chunks. `sizes` are their bytes, by number.
pub fn select(versions: Vec<Version>, sizes: &[u32]) -> Selection {
    let images = split(versions);
    let (mut chosen, alone) = across_images(&images, sizes);
    for image in images.values() {
        chosen.extend(across_versions(image, sizes));
    }
    Selection { chunks: chosen.into_iter().collect(), alone }
}

/// Versions of one image, the oldest first.
#[derive(Debug, Default)]
struct Image {
    train: Vec<Vec<u32>>,
    /// Chunks of all versions to try with.
    test: Vec<u32>,
}

/// Orders the versions of each image and parts them.
fn split(versions: Vec<Version>) -> BTreeMap<String, Image> {
    let mut by_image: BTreeMap<String, Vec<Version>> = BTreeMap::new();
    for version in versions {
        by_image.entry(version.image.clone()).or_default().push(version);
    }
    let parted = by_image.into_iter().map(|(name, mut versions)| {
        versions.sort_by_cached_key(|one| (digits(&one.version), one.version.clone()));
        let count = versions.len();
        let train = ((count * TRAIN + 5) / 10).max(2).min(count);
        let mut lists = versions.into_iter().map(|one| one.chunks);
        let train: Vec<Vec<u32>> = lists.by_ref().take(train).collect();
        (name, Image { train, test: union(lists) })
    });
    parted.collect()
}

/// Groups of digits in a version, as numbers.
pub(super) fn digits(version: &str) -> Vec<u64> {
    let groups = version.split(|c: char| !c.is_ascii_digit()).filter(|group| !group.is_empty());
    groups.map(|group| group.parse().unwrap_or(u64::MAX)).collect()
}

/// All numbers of several sorted lists.
fn union(lists: impl IntoIterator<Item = Vec<u32>>) -> Vec<u32> {
    let mut all: Vec<u32> = lists.into_iter().flatten().collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn size(sizes: &[u32], chunk: u32) -> u64 {
    sizes.get(chunk as usize).map_or(0, |&size| size.into())
}

fn bytes<'a>(sizes: &[u32], chunks: impl IntoIterator<Item = &'a u32>) -> u64 {
    chunks.into_iter().map(|&chunk| size(sizes, chunk)).sum()
}

/// Bytes of `chunks` that are not `covered`.
fn uncovered(sizes: &[u32], chunks: &[u32], covered: &BTreeSet<u32>) -> u64 {
    bytes(sizes, chunks.iter().filter(|chunk| !covered.contains(chunk)))
}

/// Bytes that two sorted lists have in common.
fn common(sizes: &[u32], a: &[u32], b: &[u32]) -> u64 {
    let (mut a, mut b, mut sum) = (a.iter().peekable(), b.iter().peekable(), 0);
    while let (Some(&&one), Some(&&other)) = (a.peek(), b.peek()) {
        sum += if one == other { size(sizes, one) } else { 0 };
        if one <= other {
            a.next();
        }
        if other <= one {
            b.next();
        }
    }
    sum
}

/// Chunks that images of a cluster share, and the images that are in none.
fn across_images(images: &BTreeMap<String, Image>, sizes: &[u32]) -> (BTreeSet<u32>, Vec<String>) {
    let mut train: Vec<Vec<u32>> = images.values().map(|image| union(image.train.iter().cloned())).collect();
    let mut test: Vec<Vec<u32>> = images.values().map(|image| image.test.clone()).collect();
    let mut chosen = BTreeSet::new();
    let mut clustered = vec![false; train.len()];
    for _ in 0..ROUNDS {
        let near = Distances::new(&train, sizes);
        let tried = RADII.step_by(STEP).map(|radius| Clusters::new(&near, radius, &train));
        // Of equally good ones that with most images, and of these the narrowest.
        let worth = |clusters: &Clusters| (clusters.uncovered(&test, sizes), Reverse(clusters.inside()));
        let Some(best) = tried.min_by_key(worth) else { break };
        let inside = best.inside();
        if inside * FEW < train.len() || inside == 0 {
            break;
        }
        for (n, cluster) in best.of_image.iter().enumerate() {
            let Some(shared) = cluster.and_then(|cluster| best.shared.get(cluster)) else { continue };
            for lists in [&mut train, &mut test] {
                if let Some(list) = lists.get_mut(n) {
                    list.retain(|chunk| !shared.contains(chunk));
                }
            }
            if let Some(inside) = clustered.get_mut(n) {
                *inside = true;
            }
        }
        let before = chosen.len();
        chosen.extend(best.shared.into_iter().flatten());
        if chosen.len() == before {
            break;
        }
    }
    let alone = images.keys().zip(clustered).filter(|(_, inside)| !inside).map(|(name, _)| name.clone());
    (chosen, alone.collect())
}

/// How far images are from each other: 1 less the bytes that two share, divided by the sum of their sizes, in hundredths, rounded up. So the same image
/// twice is 50 from itself.
struct Distances {
    count: usize,
    hundredths: Vec<u64>,
}

impl Distances {
    fn new(images: &[Vec<u32>], sizes: &[u32]) -> Self {
        let count = images.len();
        let own: Vec<u64> = images.iter().map(|image| bytes(sizes, image)).collect();
        let mut hundredths = vec![0; count * count];
        for (n, (one, one_size)) in images.iter().zip(&own).enumerate() {
            for (m, (other, other_size)) in images.iter().zip(&own).enumerate().take(n) {
                let shared = common(sizes, one, other);
                let all = one_size + other_size;
                // Two that have nothing are not alike.
                let distance = if all == 0 {
                    100
                } else {
                    (u128::from(all - shared) * 100).div_ceil(all.into()).try_into().unwrap_or(100)
                };
                for at in [n * count + m, m * count + n] {
                    if let Some(slot) = hundredths.get_mut(at) {
                        *slot = distance;
                    }
                }
            }
        }
        Self { count, hundredths }
    }

    /// Images within `radius` of one, itself included.
    fn around(&self, image: usize, radius: u64) -> Vec<usize> {
        let row = self.hundredths.get(image * self.count..(image + 1) * self.count).unwrap_or(&[]);
        (0..).zip(row).filter(|(_, distance)| **distance <= radius).map(|(n, _)| n).collect()
    }
}

/// Images of common density (DBSCAN), and what each cluster shares.
struct Clusters {
    of_image: Vec<Option<usize>>,
    shared: Vec<BTreeSet<u32>>,
}

impl Clusters {
    fn new(near: &Distances, radius: u64, images: &[Vec<u32>]) -> Self {
        let mut of_image = vec![None; images.len()];
        let mut count = 0;
        for first in 0..images.len() {
            if of_image.get(first) != Some(&None) || near.around(first, radius).len() < MIN_POINTS {
                continue;
            }
            let mut open = vec![first];
            while let Some(at) = open.pop() {
                let Some(slot) = of_image.get_mut(at).filter(|slot| slot.is_none()) else { continue };
                *slot = Some(count);
                let around = near.around(at, radius);
                if around.len() >= MIN_POINTS {
                    open.extend(around);
                }
            }
            count += 1;
        }
        let shared = (0..count).map(|cluster| shared(&of_image, cluster, images)).collect();
        Self { of_image, shared }
    }

    /// Images in a cluster.
    fn inside(&self) -> usize {
        self.of_image.iter().filter(|cluster| cluster.is_some()).count()
    }

    /// Bytes to try with that the images' clusters do not share.
    fn uncovered(&self, test: &[Vec<u32>], sizes: &[u32]) -> u64 {
        let none = BTreeSet::new();
        let of_one = |(cluster, chunks): (&Option<usize>, &Vec<u32>)| {
            let shared = cluster.and_then(|cluster| self.shared.get(cluster)).unwrap_or(&none);
            uncovered(sizes, chunks, shared)
        };
        self.of_image.iter().zip(test).map(of_one).sum()
    }
}

/// Chunks that nearly all images of a cluster have.
fn shared(of_image: &[Option<usize>], cluster: usize, images: &[Vec<u32>]) -> BTreeSet<u32> {
    let members = of_image.iter().zip(images).filter(|(of, _)| **of == Some(cluster));
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    let mut count = 0;
    for (_, chunks) in members {
        count += 1;
        chunks.iter().for_each(|&chunk| *counts.entry(chunk).or_insert(0) += 1);
    }
    counts.into_iter().filter(|(_, having)| having * 10 >= count * SHARED).map(|(chunk, _)| chunk).collect()
}

/// Chunks of one image that stay from version to version: exponential smoothing of "the version before has it, too".
fn across_versions(image: &Image, sizes: &[u32]) -> BTreeSet<u32> {
    // In hundredths, so that no rounding decides.
    let mut steady: BTreeMap<u32, u64> = BTreeMap::new();
    let mut before: Option<&Vec<u32>> = None;
    for version in &image.train {
        let smoothed = version.iter().map(|chunk| {
            let stayed = before.is_some_and(|before| before.binary_search(chunk).is_ok());
            (*chunk, (if stayed { 100 } else { 0 } + steady.get(chunk).copied().unwrap_or(0)) / 2)
        });
        // What this version does not have is not worth anything any more.
        steady = smoothed.collect();
        before = Some(version);
    }
    let chosen = |threshold: u64| {
        let steady = steady.iter().filter(|(_, steadiness)| **steadiness >= threshold);
        steady.map(|(chunk, _)| *chunk).collect::<BTreeSet<u32>>()
    };
    // Of equally good ones that which chooses least; where there is nothing to try with, that which chooses most.
    let tried = THRESHOLDS.rev().step_by(STEP).map(chosen);
    let tried: Vec<BTreeSet<u32>> = tried.collect();
    match image.test.is_empty() {
        true => tried.into_iter().last(),
        false => tried.into_iter().min_by_key(|chunks| uncovered(sizes, &image.test, chunks)),
    }
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(image: &str, version: &str, chunks: &[u32]) -> Version {
        Version { image: image.to_owned(), version: version.to_owned(), chunks: union([chunks.to_vec()]) }
    }

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let mut found = ["7.0.10", "v7.0.9", "6.2-alpine3.19", "7"];
        found.sort_by_key(|version| digits(version));
        assert_eq!(found, ["6.2-alpine3.19", "7", "v7.0.9", "7.0.10"]);
    }

    /// Chunk 1 stays, 2 left, 3 came late, 4 is in the newest only, which is for trying.
    #[test]
    fn what_stays_from_version_to_version_is_chosen() {
        let versions =
            vec![version("a", "10", &[1, 3]), version("a", "9", &[1, 2]), version("a", "11", &[1, 3, 4])];
        let found = select(versions.clone(), &[100; 5]);
        assert_eq!(found, Selection { chunks: vec![1], alone: vec!["a".to_owned()] });
        let mut other = versions;
        other.reverse();
        assert_eq!(select(other, &[100; 5]), found, "in any order");
        assert_eq!(
            select(vec![version("a", "1", &[1])], &[100; 5]).chunks,
            [] as [u32; 0],
            "nothing to compare"
        );
        let two = vec![version("a", "1", &[1, 2]), version("a", "2", &[2, 3])];
        assert_eq!(select(two, &[100; 5]).chunks, [2]);
        assert_eq!(select(Vec::new(), &[]), Selection::default());
    }

    /// A steadier choice that covers as much of what comes next is taken: chunk 5 is old, but gone at last.
    #[test]
    fn newer_versions_decide_how_steady_a_chunk_must_be() {
        let old: Vec<Version> =
            (0..7).map(|n| version("a", &n.to_string(), if n < 5 { &[1, 9] } else { &[1, 5] })).collect();
        let with = |newest: &[u32]| {
            let newest = (7..10).map(|n| version("a", &n.to_string(), newest));
            select(old.iter().cloned().chain(newest).collect(), &[100; 10]).chunks
        };
        assert_eq!(with(&[1]), [1], "chunk 5 would cover nothing");
        assert_eq!(with(&[1, 5]), [1, 5]);
    }

    /// Twelve images share chunks 0 to 9, one has nothing of it; chunk 11 is in 11 of 12. Ten have chunk 12, which makes them a cluster in the second
    /// round; eight of these have chunk 13, which is too few of them.
    #[test]
    fn what_images_of_a_cluster_share_is_chosen() {
        let mut versions: Vec<Version> = (0..12u32)
            .map(|n| {
                let mut chunks: Vec<u32> = (0..10).chain([100 + n]).collect();
                chunks.extend((n != 3).then_some(11));
                chunks.extend((n > 1).then_some(12));
                chunks.extend((n > 3).then_some(13));
                version(&format!("image-{n}"), "1", &chunks)
            })
            .collect();
        versions.push(version("other", "1", &[200, 201]));
        let found = select(versions.clone(), &[10; 300]);
        assert_eq!(found.chunks, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12]);
        assert_eq!(found.alone, ["other"]);
        // Nine are no cluster.
        versions.truncate(9);
        let found = select(versions, &[10; 300]);
        assert_eq!((found.chunks.len(), found.alone.len()), (0, 9));
    }
}
