//! Decryption of stored units: AES-128-XTS, the cipher of encrypted blobs. docs/format.md, "Encryption".
//!
//! Encryption keeps bytes from those without the key; it proves nothing. Digests do, as for plain blobs.

use crate::CodecError;
use aes::Aes128;
use aes::cipher::KeyInit;
use rafs_format::{Blob, Cipher};
use std::fmt;
use xts_mode::Xts128;

/// Shortest unit that XTS can process.
const BLOCK: usize = 16;
/// Units shorter than a block are filled up to it and marked so.
const SHORT: usize = 18;
const MARK: [u8; 2] = [0x78, 0x90];

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
    /// The key that a bootstrap holds for `blob`; `None` for a plain blob. Errors: another cipher, or halves of the key that are equal,
    /// which XTS forbids.
    pub fn of(blob: &Blob) -> Result<Option<Self>, CodecError> {
        match blob.cipher {
            Cipher::None => return Ok(None),
            Cipher::Aes128Xts => {}
            Cipher::Aes256Xts => return Err(CodecError::Cipher { cipher: "AES-256-XTS" }),
            Cipher::Aes256Gcm => return Err(CodecError::Cipher { cipher: "AES-256-GCM" }),
        }
        let unusable = CodecError::Cipher { cipher: "AES-128-XTS" };
        let (data, tweak) = blob.meta_digest.0.split_at(BLOCK);
        if data == tweak {
            return Err(unusable);
        }
        let halves = Aes128::new_from_slice(data).ok().zip(Aes128::new_from_slice(tweak).ok());
        let (data, tweak) = halves.ok_or(unusable)?;
        let mut iv = [0; BLOCK];
        let (low, high) = iv.split_at_mut(8);
        low.copy_from_slice(&blob.meta_size.to_le_bytes());
        high.copy_from_slice(&blob.cipher_iv.to_le_bytes());
        Ok(Some(Self { xts: Xts128::new(data, tweak), iv }))
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
            let mut unit = plain.to_vec();
            key.xts.encrypt_sector(&mut unit, key.iv.into());
            unit
        };
        for count in 1..16u8 {
            let filler = vec![16 - count; usize::from(16 - count)];
            let filled = [vec![b'x'; usize::from(count)], filler, MARK.to_vec()].concat();
            assert_eq!(key.decrypt(encrypt(&filled), None).unwrap(), vec![b'x'; usize::from(count)]);
            // A unit that really has 18 bytes ending so.
            assert_eq!(key.decrypt(encrypt(&filled), Some(18)).unwrap(), filled);
        }
        let odd = [&[0; 16][..], &MARK].concat();
        assert_eq!(key.decrypt(encrypt(&odd), None).unwrap(), odd);
    }

    #[test]
    fn keys_that_cannot_be_used_are_refused() {
        assert!(Key::of(&blob(Cipher::None, [0; 32])).unwrap().is_none());
        assert!(Key::of(&blob(Cipher::Aes128Xts, [5; 32])).is_err());
        let error = Key::of(&blob(Cipher::Aes256Gcm, [5; 32])).unwrap_err();
        assert!(error.to_string().contains("AES-256-GCM"), "{error}");
    }
}
