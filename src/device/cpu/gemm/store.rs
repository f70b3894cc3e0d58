//! Packed matrices in files that every process of a machine maps: a base that many of them work with is in memory once.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::PathBuf;
use std::{env, fs};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::packed::{Channels, Packed, lengths};
use crate::atomic::AtomicFile;
use crate::device::Dtype;
use crate::device::cpu::buffer::Buffer;
use crate::device::cpu::isa::Isa;
use crate::text::{capitalised, hex};
use crate::{Error, Result};

/// The environment variable that names the folder; workers of a cluster inherit it.
pub const STORE_VARIABLE: &str = "LORB_PACKED";

/// What the names of files are made from, together with the matrix: to be raised with any change of the layout.
const LAYOUT: &str = "lorb packed 2";

/// The folder of the files. Each holds one matrix, and is named by a digest of what it was packed from and how, so that
/// none is ever out of date; what a reader has no more use for may be removed at any time.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
}

/// How a matrix is packed.
#[derive(Clone, Copy)]
pub(in crate::device::cpu) struct Form {
    pub isa: Isa,
    pub dtype: Dtype,
    pub k: usize,
    pub n: usize,
    /// Whether the source has the columns one after the other, not the rows.
    pub by_columns: bool,
}

/// Memory that nobody writes to.
#[derive(Debug)]
pub(super) enum Words {
    Own(Buffer),
    /// The first `len` floats of a file.
    Mapped {
        map: Mmap,
        len: usize,
    },
}

impl Deref for Words {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Words::Own(buffer) => buffer,
            Words::Mapped { map, len } => bytemuck::cast_slice(&map[..len * size_of::<f32>()]),
        }
    }
}

impl Form {
    /// The name of the file of `source` in this form.
    fn name(self, source: &[f32]) -> String {
        let Form { isa, dtype, k, n, by_columns } = self;
        let mut hash = Sha256::new();
        let dtype = capitalised(dtype.name());
        hash.update(format!("{LAYOUT}, {}, {dtype}, {k} x {n}, {by_columns}:", isa.name()));
        hash.update(bytemuck::cast_slice::<f32, u8>(source));
        format!("{}.packed", hex(&hash.finalize()))
    }
}

impl Store {
    /// The store that [`STORE_VARIABLE`] names, in a folder that is made where it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] where that cannot be.
    pub fn of_environment() -> Result<Option<Store>> {
        match env::var_os(STORE_VARIABLE).filter(|folder| !folder.is_empty()) {
            Some(folder) => Store::open(folder).map(Some),
            None => Ok(None),
        }
    }

    /// The store in `folder`, which is made where it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] where that cannot be.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Store> {
        let folder = folder.into();
        fs::create_dir_all(&folder)
            .map_err(|e| Error::io(&folder, "make the folder of packed weights that LORB_PACKED names", e))?;
        Ok(Store { folder })
    }

    /// What `pack` makes of `source`, from its file where it is there and whole; else that is written. Where it cannot be,
    /// the matrix stays in this process's own memory.
    pub(in crate::device::cpu) fn packed(
        &self,
        source: &[f32],
        form: Form,
        pack: impl FnOnce() -> Packed,
    ) -> Packed {
        let path = self.folder.join(form.name(source));
        let read = || Packed::map(&File::open(&path).ok()?, form);
        if let Some(packed) = read() {
            return packed;
        }
        let packed = pack();
        let written = AtomicFile::create(&path).and_then(|mut file| {
            packed.write(&mut file).map_err(|e| Error::io(&path, "write it", e))?;
            file.commit()
        });
        written.ok().and_then(|()| read()).unwrap_or(packed)
    }
}

/// In a file: the words, the channels, and a digest of both.
impl Packed {
    fn write(&self, file: &mut impl Write) -> io::Result<()> {
        let mut hash = Sha256::new();
        for part in [&self.words[..], &self.channels.scales, &self.channels.sums] {
            let bytes: &[u8] = bytemuck::cast_slice(part);
            hash.update(bytes);
            file.write_all(bytes)?;
        }
        file.write_all(&hash.finalize())
    }

    /// `None` where the file is not whole.
    fn map(file: &File, form: Form) -> Option<Packed> {
        // SAFETY: the map is only read, and whoever writes such a file writes it beside and renames it, which leaves a
        // mapped one untouched. A user who writes into one that is mapped changes values under us or raises SIGBUS,
        // as with the model's own files.
        let map = unsafe { Mmap::map(file) }.ok()?;
        let Form { isa, dtype, k, n, .. } = form;
        let lengths = lengths(isa, dtype, k, n);
        let floats: usize = lengths.iter().sum();
        let (content, digest) = map.split_at_checked(floats * size_of::<f32>())?;
        if Sha256::digest(content)[..] != *digest {
            return None;
        }
        let [words, scales, _] = lengths;
        let channels: &[f32] = &bytemuck::cast_slice(content)[words..];
        let (scales, sums) = channels.split_at(scales);
        let channels = Channels { scales: scales.to_vec(), sums: sums.to_vec() };
        Some(Packed { isa, words: Words::Mapped { map, len: words }, k, n, dtype, channels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some numbers, packed in a store.
    fn packed(store: &Store, form: Form, seed: usize) -> Packed {
        let source: Vec<f32> =
            (0..form.k * form.n).map(|i| ((i * 7919 + seed) % 1013) as f32 - 500.0).collect();
        let Form { isa, dtype, k, n, .. } = form;
        store.packed(&source, form, || Packed::new(isa, dtype, k, n, |i, j| source[i * n + j]))
    }

    fn content(packed: &Packed) -> Vec<u32> {
        let channels = packed.channels.scales.iter().chain(&packed.channels.sums);
        packed.words.iter().chain(channels).map(|x| x.to_bits()).collect()
    }

    fn files(store: &Store) -> Vec<PathBuf> {
        fs::read_dir(&store.folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn what_is_mapped_is_what_was_packed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("new/folder")).unwrap();
        for &isa in Isa::available() {
            for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
                let form = Form { isa, dtype, k: 270, n: 37, by_columns: false };
                let own =
                    Packed::new(isa, dtype, 270, 37, |i, j| ((i * 37 + j) * 7919 % 1013) as f32 - 500.0);
                for _ in 0..2 {
                    let mapped = packed(&store, form, 0);
                    assert!(matches!(mapped.words, Words::Mapped { .. }));
                    assert_eq!(content(&mapped), content(&own), "{isa:?} {dtype:?}");
                }
            }
        }
        assert_eq!(files(&store).len(), 3 * Isa::available().len());
    }

    #[test]
    fn other_weights_and_forms_have_files_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let form = Form { isa: Isa::available()[0], dtype: Dtype::F32, k: 6, n: 4, by_columns: false };
        let forms = [form, Form { by_columns: true, ..form }, Form { k: 4, n: 6, ..form }];
        forms.iter().for_each(|&form| drop(packed(&store, form, 0)));
        assert_eq!(packed(&store, form, 1).words[0], -499.0);
        assert_eq!(files(&store).len(), 4);
    }

    /// Files outlive the program that wrote them.
    #[test]
    fn names_stay_as_they_were() {
        let isa = Isa::available()[Isa::available().len() - 1];
        let name = |dtype| Form { isa, dtype, k: 1, n: 1, by_columns: false }.name(&[1.0]);
        let names = [
            "e60532a52dbd741b7e844e2e4cca3d245cd1a3a7ea9362752993ed44b916440c.packed",
            "e2a0b5bb06aba5ccc88899c8640e40ff90885623bfc6cf3f6933921c4f124764.packed",
            "bbf0fb0658217004203570bf0fa7b42fab1204cd2d8c8f329d509445e77c4750.packed",
        ];
        assert_eq!([Dtype::F32, Dtype::Bf16, Dtype::Int8].map(name), names);
    }

    #[test]
    fn a_damaged_file_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let form = Form { isa: Isa::available()[0], dtype: Dtype::F32, k: 60, n: 4, by_columns: false };
        let whole = content(&packed(&store, form, 0));
        let file = files(&store).remove(0);
        let bytes = fs::read(&file).unwrap();
        let mut flipped = bytes.clone();
        flipped[77] ^= 1;
        for damaged in [&bytes[..bytes.len() - 1], &flipped, &[]] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(content(&packed(&store, form, 0)), whole);
            assert_eq!(fs::read(&file).unwrap(), bytes);
        }
    }

    #[test]
    fn without_room_the_matrix_is_the_process_s_own() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("folder")).unwrap();
        fs::remove_dir(&store.folder).unwrap();
        let form = Form { isa: Isa::available()[0], dtype: Dtype::F32, k: 6, n: 4, by_columns: false };
        assert!(matches!(packed(&store, form, 0).words, Words::Own(_)));
        fs::write(&store.folder, "").unwrap();
        let refused = Store::open(&store.folder).unwrap_err().to_string();
        assert!(refused.contains("LORB_PACKED"), "{refused}");
    }
}
