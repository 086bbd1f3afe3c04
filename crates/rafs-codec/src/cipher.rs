//! Encryption of stored units: AES-128-XTS, the cipher of encrypted blobs. docs/format.md, "Encryption".
//!
//! Encryption keeps bytes from those without the key; it proves nothing. Digests do, as for plain blobs. Where an image leaves its key out, a check
//! value stands in the place of the key ([`Secret::left_out`]), and [`Keys`] puts the right one back. Makes no random numbers.

use crate::CodecError;
use aes::Aes128;
use aes::cipher::KeyInit;
use rafs_format::{Blob, Cipher, Digest};
use std::fmt;
use std::sync::Arc;
use xts_mode::Xts128;

/// Shortest unit that XTS can process.
const BLOCK: usize = 16;
/// Units shorter than a block are filled up to it and marked so.
const SHORT: usize = 18;
const MARK: [u8; 2] = [0x78, 0x90];

/// Tweak of the check value of a key: it says for what the key is used, and is no initial vector but by chance.
const CHECK_TWEAK: [u8; 16] = *b"RAFS key check 1";
/// Bytes of a key.
const KEY: usize = 32;

/// A key of blobs: 32 bytes, two halves that differ. Not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; KEY]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

impl Secret {
    /// These 32 bytes. Errors: both halves are equal, which XTS forbids.
    pub fn new(bytes: [u8; KEY]) -> Result<Self, CodecError> {
        if halves_differ(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(CodecError::Cipher { cipher: "AES-128-XTS" })
        }
    }

    /// The key in a file of these bytes: 64 hex digits, perhaps with white space around them, or the 32 bytes themselves. `None`: anything else, or halves that are equal.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let raw = <[u8; KEY]>::try_from(bytes).ok();
        let text = || std::str::from_utf8(bytes).ok().and_then(|text| unhex(text.trim()));
        Self::new(raw.or_else(text)?).ok()
    }

    /// The key as 64 hex digits, for the file that it is kept in.
    pub fn expose(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The key itself, as a bootstrap holds it that is kept as secret as the key.
    pub fn put_in(&self) -> Digest {
        Digest(self.0)
    }

    /// What an image of a blob with this initial vector holds in the place of the key: a check value twice, which is no key, since
    /// its halves are equal. It tells a wrong key, and nothing else; images of one key have different ones.
    pub fn left_out(&self, iv: [u8; BLOCK]) -> Digest {
        let mut check = iv;
        if let Ok(xts) = xts(&self.0) {
            xts.encrypt_sector(&mut check, CHECK_TWEAK.into());
        }
        let mut twice = [0; KEY];
        twice.iter_mut().zip(check.into_iter().cycle()).for_each(|(to, from)| *to = from);
        Digest(twice)
    }
}

fn halves_differ(key: &[u8; KEY]) -> bool {
    let (data, tweak) = key.split_at(BLOCK);
    data != tweak
}

/// 64 hex digits.
fn unhex(text: &str) -> Option<[u8; KEY]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks_exact(2).filter_map(|pair| Some(pair.first()? << 4 | pair.last()?)).collect();
    (digits.len() == 2 * KEY).then_some(bytes)?.try_into().ok()
}

fn xts(key: &[u8; KEY]) -> Result<Xts128<Aes128>, CodecError> {
    let unusable = CodecError::Cipher { cipher: "AES-128-XTS" };
    let (data, tweak) = key.split_at(BLOCK);
    let halves = Aes128::new_from_slice(data).ok().zip(Aes128::new_from_slice(tweak).ok());
    let (data, tweak) = halves.filter(|_| halves_differ(key)).ok_or(unusable)?;
    Ok(Xts128::new(data, tweak))
}

/// Initial vector of a blob.
fn iv(blob: &Blob) -> [u8; BLOCK] {
    let mut iv = [0; BLOCK];
    let (low, high) = iv.split_at_mut(8);
    low.copy_from_slice(&blob.meta_size.to_le_bytes());
    high.copy_from_slice(&blob.cipher_iv.to_le_bytes());
    iv
}

/// Keys that are known, for images that leave theirs out. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct Keys(Arc<[Secret]>);

impl From<Vec<Secret>> for Keys {
    fn from(keys: Vec<Secret>) -> Self {
        Self(keys.into())
    }
}

impl Keys {
    /// `blob` with its key in its place, if that was left out and one of these fits; else as it is.
    pub fn unlock(&self, blob: &Blob) -> Blob {
        let mut blob = blob.clone();
        if blob.cipher == Cipher::Aes128Xts && !halves_differ(&blob.meta_digest.0) {
            let iv = iv(&blob);
            if let Some(key) = self.0.iter().find(|key| key.left_out(iv) == blob.meta_digest) {
                blob.meta_digest = key.put_in();
            }
        }
        blob
    }
}

/// Key and initial vector of one blob. Not shown.
pub struct Key {
    xts: Xts128<Aes128>,
    iv: [u8; 16],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(not shown)")
    }
}

impl Key {
    /// The key that stands in `blob`; `None` for a plain blob. Errors: another cipher; [`CodecError::NoKey`] where the image leaves the key out, which
    /// [`Keys::unlock`] puts back.
    pub fn of(blob: &Blob) -> Result<Option<Self>, CodecError> {
        match blob.cipher {
            Cipher::None => return Ok(None),
            Cipher::Aes128Xts => {}
            Cipher::Aes256Xts => return Err(CodecError::Cipher { cipher: "AES-256-XTS" }),
            Cipher::Aes256Gcm => return Err(CodecError::Cipher { cipher: "AES-256-GCM" }),
        }
        let key = &blob.meta_digest.0;
        if !halves_differ(key) {
            return Err(CodecError::NoKey);
        }
        Ok(Some(Self { xts: xts(key)?, iv: iv(blob) }))
    }

    /// Does the key of an encrypted blob stand in `blob`, for everybody to read?
    pub fn is_in(blob: &Blob) -> bool {
        blob.cipher != Cipher::None && halves_differ(&blob.meta_digest.0)
    }

    /// `key` for a blob with this initial vector.
    pub fn new(key: &Secret, iv: [u8; BLOCK]) -> Result<Self, CodecError> {
        Ok(Self { xts: xts(&key.0)?, iv })
    }

    /// Bytes that [`Key::encrypt`] needs for a unit of `size`.
    pub fn room(size: usize) -> usize {
        if size < BLOCK { SHORT } else { size }
    }

    /// Encrypts the first `size` bytes of `unit`, at least 1, in their place. Returns how many bytes they are then: as many, or 18 for fewer than 16.
    /// `None`: the unit is shorter than [`Key::room`].
    pub fn encrypt(&self, unit: &mut [u8], size: usize) -> Option<usize> {
        let unit = unit.get_mut(..Self::room(size))?;
        if let Some(filler) = unit.get_mut(size..).filter(|filler| !filler.is_empty()) {
            let (fill, mark) = filler.split_at_mut_checked(BLOCK - size)?;
            fill.fill(u8::try_from(BLOCK - size).ok()?);
            mark.copy_from_slice(&MARK);
        }
        self.xts.encrypt_sector(unit, self.iv.into());
        Some(unit.len())
    }

    /// Decrypts one stored unit. `plain_size`: length of the result where it is known, which tells a unit of 18 bytes from a shorter one
    /// that was filled up.
    pub fn decrypt(&self, mut unit: Vec<u8>, plain_size: Option<usize>) -> Result<Vec<u8>, CodecError> {
        if unit.len() < BLOCK {
            return Err(CodecError::Encrypted { stored: unit.len() });
        }
        self.xts.decrypt_sector(&mut unit, self.iv.into());
        if unit.len() == SHORT && unit.ends_with(&MARK) && plain_size != Some(SHORT) {
            let filled = unit.get(BLOCK - 1).map_or(0, |&count| usize::from(count));
            if (1..BLOCK).contains(&filled) {
                unit.truncate(BLOCK - filled);
            }
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rafs_format::device::BlobMetaLocation;
    use rafs_format::{BlobFeatures, BlobId, Compressor, Digest, DigestAlgorithm};

    fn blob(cipher: Cipher, key: [u8; 32]) -> Blob {
        Blob {
            id: BlobId::new("b").unwrap(),
            chunk_size: 4096,
            chunk_count: 1,
            compressor: Compressor::None,
            digester: DigestAlgorithm::Blake3,
            features: BlobFeatures::ENCRYPTED,
            compressed_size: 0,
            uncompressed_size: 0,
            meta: BlobMetaLocation {
                compressor: Compressor::None,
                compressed_offset: 0,
                compressed_size: 0,
                uncompressed_size: 0,
            },
            toc_size: 0,
            toc_digest: Digest([0; 32]),
            meta_digest: Digest(key),
            meta_size: 0x0033_3333_3333,
            cipher_iv: 0,
            cipher,
        }
    }

    /// IEEE 1619-2007, XTS-AES-128, vector 2.
    #[test]
    fn units_are_decrypted_as_the_standard_says() {
        let mut key = [0x11; 32];
        key[16..].fill(0x22);
        let key = Key::of(&blob(Cipher::Aes128Xts, key)).unwrap().unwrap();
        let stored = "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0";
        let stored: Vec<u8> =
            (0..32).map(|n| u8::from_str_radix(&stored[2 * n..2 * n + 2], 16).unwrap()).collect();
        assert_eq!(key.decrypt(stored, None).unwrap(), [0x44; 32]);
        assert_eq!(key.decrypt(vec![0; 15], None), Err(CodecError::Encrypted { stored: 15 }));
        assert_eq!(format!("{key:?}"), "Key(not shown)");
    }

    #[test]
    fn short_units_are_cut_to_what_they_held() {
        let mut bytes = [7; 32];
        bytes[16..].fill(8);
        let key = Key::of(&blob(Cipher::Aes128Xts, bytes)).unwrap().unwrap();
        let encrypt = |plain: &[u8]| {
            let mut unit = [plain, &[0xEE; 18]].concat();
            let size = key.encrypt(&mut unit, plain.len()).unwrap();
            unit.truncate(size);
            unit
        };
        for count in 1..16u8 {
            let filler = vec![16 - count; usize::from(16 - count)];
            let filled = [vec![b'x'; usize::from(count)], filler, MARK.to_vec()].concat();
            assert_eq!(key.decrypt(encrypt(&filled), None).unwrap(), vec![b'x'; usize::from(count)]);
            // A unit that really has 18 bytes ending so.
            assert_eq!(key.decrypt(encrypt(&filled), Some(18)).unwrap(), filled);
            assert_eq!(encrypt(&vec![b'x'; usize::from(count)]), encrypt(&filled), "filled up as documented");
        }
        for size in [16, 17, 18, 19, 31, 32, 33, 1000] {
            let plain = vec![b'y'; size];
            assert_eq!(key.decrypt(encrypt(&plain), Some(size)).unwrap(), plain);
        }
        assert_eq!(key.encrypt(&mut [1; 17], 3), None, "no room to fill up");
        let odd = [&[0; 16][..], &MARK].concat();
        assert_eq!(key.decrypt(encrypt(&odd), None).unwrap(), odd);
    }

    #[test]
    fn keys_that_cannot_be_used_are_refused() {
        assert!(Key::of(&blob(Cipher::None, [0; 32])).unwrap().is_none());
        assert_eq!(Key::of(&blob(Cipher::Aes128Xts, [5; 32])).unwrap_err(), CodecError::NoKey);
        assert!(Secret::new([5; 32]).is_err());
        let error = Key::of(&blob(Cipher::Aes256Gcm, [5; 32])).unwrap_err();
        assert!(error.to_string().contains("AES-256-GCM"), "{error}");
    }

    fn secret(first: u8) -> Secret {
        let mut bytes = [7; 32];
        bytes[0] = first;
        Secret::new(bytes).unwrap()
    }

    #[test]
    fn a_key_that_was_left_out_is_put_back_if_it_fits() {
        let iv = super::iv(&blob(Cipher::Aes128Xts, [0; 32]));
        let locked = blob(Cipher::Aes128Xts, secret(1).left_out(iv).0);
        assert_eq!(Key::of(&locked).unwrap_err(), CodecError::NoKey);
        let keys = Keys::from(vec![secret(2), secret(1)]);
        assert_eq!(keys.unlock(&locked).meta_digest, secret(1).put_in());
        assert!(Key::of(&keys.unlock(&locked)).unwrap().is_some());
        let other = Blob { cipher_iv: 1, ..locked.clone() };
        assert_eq!(keys.unlock(&other), other, "a check value is that of one initial vector");
        assert_eq!(Keys::default().unlock(&locked), locked);
        let open = blob(Cipher::Aes128Xts, secret(3).put_in().0);
        assert_eq!(keys.unlock(&open), open);
        assert!(
            Key::is_in(&open)
                && !Key::is_in(&locked)
                && !Key::is_in(&blob(Cipher::None, secret(3).put_in().0))
        );
        let plain = blob(Cipher::None, [0; 32]);
        assert_eq!(keys.unlock(&plain), plain);
    }

    #[test]
    fn keys_are_hex_digits_or_bytes() {
        let digits = secret(1).expose();
        assert_eq!(digits.len(), 64);
        for file in [digits.clone(), format!("{digits}\n"), digits.to_uppercase()] {
            assert_eq!(Secret::parse(file.as_bytes()), Some(secret(1)), "{file}");
        }
        assert_eq!(Secret::parse(&secret(1).put_in().0), Some(secret(1)));
        let wrong =
            [&digits[1..], "", "x", &"5".repeat(64), &format!("{digits}0"), &digits.replace('7', "g")];
        for file in wrong {
            assert_eq!(Secret::parse(file.as_bytes()), None, "{file}");
        }
        assert_eq!(
            format!("{:?} {:?}", secret(1), Keys::from(vec![secret(1)])),
            "Secret(not shown) Keys([Secret(not shown)])"
        );
    }
}
