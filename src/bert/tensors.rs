//! Named tensors of safetensors files, memory-mapped, read or embedded, read as f32; and the writer of such files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, json};

use crate::atomic::AtomicFile;
use crate::{Error, Result};

const _: () = assert!(cfg!(target_endian = "little"), "safetensors files hold little-endian numbers");

/// The values of one tensor, row-major. Cloning is cheap, and clones share the values.
#[derive(Clone)]
pub struct Weights(Values);

#[derive(Clone)]
enum Values {
    /// Bytes of a file that are f32 already, and aligned to 4 bytes.
    Borrowed(Bytes, Range<usize>),
    Owned(Arc<[f32]>),
}

impl From<Vec<f32>> for Weights {
    fn from(values: Vec<f32>) -> Weights {
        Weights(Values::Owned(values.into()))
    }
}

impl Deref for Weights {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Values::Borrowed(bytes, range) => bytemuck::cast_slice(&bytes[range.clone()]),
            Values::Owned(values) => values,
        }
    }
}

/// The content of a file.
#[derive(Clone)]
enum Bytes {
    Mapped(Arc<Mmap>),
    Read(Arc<[u8]>),
    Static(&'static [u8]),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Read(bytes) => bytes,
            Bytes::Static(bytes) => bytes,
        }
    }
}

/// Where a tensor lies, as its file says.
struct Stored {
    bytes: Bytes,
    range: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
}

/// The tensors of one safetensors file, or of several that make up one model.
pub struct Tensors {
    path: PathBuf,
    files: Vec<Bytes>,
    stored: BTreeMap<String, Stored>,
}

impl Tensors {
    /// Maps the safetensors file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::File`] where it is damaged or cut short.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::io(path, "read it", e))?;
        // SAFETY: the map is only read. Another process that writes into the file, or cuts it, while it is
        // mapped would change values under us or raise SIGBUS; model files are replaced by renaming (this
        // crate, safetensors and the Hugging Face cache all do so), which leaves a mapped file untouched.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map it", e))?;
        Self::parse(Bytes::Mapped(Arc::new(map)), path)
    }

    /// Reads the safetensors file at `path` into memory: whoever writes into it later does no harm.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read it", e))?;
        Self::parse(Bytes::Read(bytes.into()), path)
    }

    /// Reads a safetensors file that is part of the program; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::File`] where it is damaged or cut short.
    pub fn from_static(bytes: &'static [u8], path: impl AsRef<Path>) -> Result<Self> {
        Self::parse(Bytes::Static(bytes), path.as_ref())
    }

    fn parse(bytes: Bytes, path: &Path) -> Result<Self> {
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| {
            let hint = "it may be damaged or cut short: copy or download it again";
            Error::file(path, format!("not a whole safetensors file: {e}"), hint)
        })?;
        // The header is preceded by its own length, a u64.
        let start = header + size_of::<u64>();
        let stored = metadata.tensors().into_iter().map(|(name, info)| {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            (name, Stored { bytes: bytes.clone(), range, dtype: info.dtype, shape: info.shape.clone() })
        });
        let stored = stored.collect();
        Ok(Tensors { path: path.to_path_buf(), files: vec![bytes], stored })
    }

    /// One model of several files; `path` names it in errors.
    pub fn join(parts: impl IntoIterator<Item = Tensors>, path: impl AsRef<Path>) -> Self {
        let (mut files, mut stored) = (Vec::new(), BTreeMap::new());
        for part in parts {
            files.extend(part.files);
            stored.extend(part.stored);
        }
        Tensors { path: path.as_ref().to_path_buf(), files, stored }
    }

    /// The file or folder, as it was named when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stored.keys().map(String::as_str)
    }

    /// The shape of tensor `name`, if there is one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.stored.get(name).map(|s| s.shape.as_slice())
    }

    /// The type that tensor `name` is stored in, if there is one.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.stored.get(name).map(|s| s.dtype)
    }

    /// The values of tensor `name`, which must have exactly this `shape` and be F32, F16 or BF16.
    ///
    /// # Errors
    /// [`Error::Tensor`] where it is missing, has another shape (then with `hint`) or type, or holds a value
    /// that is not finite.
    pub fn f32(&self, name: &str, shape: &[usize], hint: &str) -> Result<Weights> {
        let stored = self.find(name, shape, hint)?;
        let values = match stored.dtype {
            Dtype::F32 => read_f32(stored),
            Dtype::F16 => Values::Owned(convert::<f16>(stored)),
            Dtype::BF16 => Values::Owned(convert::<bf16>(stored)),
            other => {
                let hint = "save the model in one of these types";
                return Err(self.unfit(name, "F32, F16 or BF16".into(), format!("{other:?}"), hint));
            }
        };
        let weights = Weights(values);
        if !all_finite(&weights)
            && let Some(at) = weights.iter().position(|x| !x.is_finite())
        {
            let hint = "the file is damaged or its training diverged";
            return Err(self.unfit(name, "finite values".into(), format!("{} at {at}", weights[at]), hint));
        }
        Ok(weights)
    }

    /// Whether tensor `name` is there and has this `shape`, without reading its values.
    ///
    /// # Errors
    /// As for [`f32`](Self::f32), but for its type and values.
    pub fn check(&self, name: &str, shape: &[usize], hint: &str) -> Result<()> {
        self.find(name, shape, hint).map(drop)
    }

    fn find(&self, name: &str, shape: &[usize], hint: &str) -> Result<&Stored> {
        let expected = format!("shape {shape:?}");
        match self.stored.get(name) {
            None => Err(self.unfit(name, expected, "nothing".into(), &self.hint_for_missing(name))),
            Some(stored) if stored.shape != shape => {
                Err(self.unfit(name, expected, format!("shape {:?}", stored.shape), hint))
            }
            Some(stored) => Ok(stored),
        }
    }

    fn unfit(&self, name: &str, expected: String, found: String, hint: &str) -> Error {
        Error::Tensor { path: self.path.clone(), tensor: name.into(), expected, found, hint: hint.into() }
    }

    /// Gives the memory back that mapped files take since their tensors were read. Whoever reads one again waits for
    /// the file again.
    pub fn release(&self) {
        for file in &self.files {
            if let Bytes::Mapped(map) = file {
                // SAFETY: the map is a shared one of a file, and only read. Its bytes come from the file again, whoever
                // holds them, and nobody writes into that: see `open`.
                let released = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
                // Memory that the system does not take is no fault.
                released.ok();
            }
        }
    }

    fn hint_for_missing(&self, name: &str) -> String {
        let count = self.stored.len();
        match self.names().min_by_key(|other| edit_distance(name, other)) {
            Some(nearest) => format!("it holds {count} tensors, the nearest name is {nearest}"),
            None => "it holds no tensors".to_string(),
        }
    }
}

fn read_f32(stored: &Stored) -> Values {
    match bytemuck::try_cast_slice::<u8, f32>(&stored.bytes[stored.range.clone()]) {
        Ok(_) => Values::Borrowed(stored.bytes.clone(), stored.range.clone()),
        // Not aligned, as embedded bytes may be.
        Err(_) => Values::Owned(aligned::<f32>(stored).into()),
    }
}

fn convert<T: bytemuck::Pod>(stored: &Stored) -> Arc<[f32]>
where
    [T]: HalfFloatSliceExt,
{
    let halves = aligned::<T>(stored);
    let mut floats = vec![0.0; halves.len()];
    halves.convert_to_f32_slice(&mut floats);
    floats.into()
}

/// A copy of the tensor's bytes as `T`, wherever they lie.
fn aligned<T: bytemuck::Pod>(stored: &Stored) -> Vec<T> {
    let bytes = &stored.bytes[stored.range.clone()];
    let mut copy = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    bytemuck::cast_slice_mut(&mut copy).copy_from_slice(bytes);
    copy
}

/// Without an early exit, so that it runs at the speed of memory.
fn all_finite(values: &[f32]) -> bool {
    values.iter().fold(true, |all, x| all & x.is_finite())
}

/// Levenshtein distance in bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A tensor to write: its name, its shape, and what gives its values when their turn comes.
pub struct Output<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Box<dyn FnOnce() -> Result<Cow<'a, [f32]>> + 'a>,
}

/// Writes an F32 safetensors file atomically, one tensor in memory at a time, in the order given.
///
/// # Errors
/// [`Error::Io`] where the file cannot be written, and what an output's values fail with.
///
/// # Panics
/// Where values do not fill their shape.
pub fn write(path: impl AsRef<Path>, tensors: Vec<Output>) -> Result<()> {
    let path = path.as_ref();
    let mut header = Map::new();
    // transformers refuses a file that does not say which framework wrote it.
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0;
    for Output { name, shape, .. } in &tensors {
        let start = end;
        end += shape.iter().product::<usize>() * size_of::<f32>();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // Spaces up to a multiple of 8, so that the values are aligned.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));

    let mut file = AtomicFile::create(path)?;
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(|e| Error::io(path, "write it", e));
    put(&(header.len() as u64).to_le_bytes())?;
    put(header.as_bytes())?;
    for Output { name, shape, values } in tensors {
        let values = values()?;
        assert_eq!(values.len(), shape.iter().product::<usize>(), "the values of {name} fill {shape:?}");
        put(bytemuck::cast_slice(&values))?;
    }
    file.commit()
}
