mod server;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use lorb_engine::atomic::{self, AtomicFile};
use lorb_engine::nbest::{Fields, Format, ListReader, ListWriter, Reading};
use lorb_engine::rescore::prune::Margin;
use lorb_engine::rescore::read_ahead::{Failure, ReadAhead};
use lorb_engine::rescore::rescorer::Rescorer;
use lorb_engine::rescore::rewrite::{Counts, rewrite};
use lorb_engine::rescore::weights::RescoringFile;
use lorb_engine::{Error, Result};

use super::convert::{note_dropped, note_left_out};
use super::output::note;
use super::profile::{Profile, ProfileOption};
use super::scoring::Scoring;
use super::{Compute, Lists, parse_from_zero};
use server::{Server, ServerOption};

/// Rescore N-best lists
#[derive(Args)]
pub struct Rescore {
    #[command(flatten)]
    scoring: Scoring,
    /// The lists, a file (also gzip or zstd) or a folder [default: JSON lines from the standard input]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The rescored lists, compressed if the name ends in .gz or .zst [default: JSON lines to the standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The format of --output [default: that of --input]; but for jsonl, hypotheses are written in their new order
    /// with the total as their score
    #[arg(long, value_name = "FORMAT", requires = "output")]
    output_format: Option<Format>,
    /// The weight of this engine's score [default: the one that was tuned or trained]
    #[arg(long, value_name = "WEIGHT", value_parser = parse_from_zero)]
    beta: Option<f64>,
    /// Do not score a hypothesis whose first-pass score trails the best of its list by more than this; evaluate
    /// --prune auto finds a margin
    #[arg(long, value_name = "MARGIN", allow_negative_numbers = true)]
    prune: Option<Margin>,
    /// What to do at a line that is no utterance
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_error: OnError,
    /// With --on-error skip: the file for the lines that were skipped [default: OUTPUT.rejects]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    #[command(flatten)]
    server: ServerOption,
    #[command(flatten)]
    profile: ProfileOption,
    #[command(flatten)]
    lists: Lists,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum OnError {
    Stop,
    Skip,
}

impl Rescore {
    pub fn run(self) -> Result<()> {
        let reading = self.reading()?;
        let rejects = self.rejects()?.map(|path| Rejects::create(&path)).transpose()?;
        let output = self.output(&reading)?;
        if let Some(server) = self.server.open(&self.scoring, &self.lists, &self.compute, self.beta)? {
            let input = ReadAhead::start(self.input.as_deref(), server.fields(), &reading);
            return until_the_reader_has_seen_enough(write_served(&server, input, output, rejects));
        }
        let (device, profile) = self.profile.start(self.compute.start()?)?;
        let head = self.scoring.open(&self.lists)?;
        let mut settings = head.settings.rescoring.clone();
        settings.weights.lorb = self.beta.unwrap_or(settings.weights.lorb);
        let fields = settings.required_fields();
        fields.check_kept_by_rescoring()?;
        let beta = if self.beta.is_some() { "; lorb by --beta" } else { "" };
        note(format!("weights: {} ({}{beta})", settings.weights, head.settings.source));

        let input = ReadAhead::start(self.input.as_deref(), &fields, &reading);
        let rescorer = Rescorer::of_head(device, head)?;
        let written = write_all(&rescorer, &settings, self.prune, input, output, rejects);
        until_the_reader_has_seen_enough(written)?;
        profile.map_or(Ok(()), Profile::finish)
    }

    /// How the input is read, its format known.
    fn reading(&self) -> Result<Reading> {
        let reading = self.lists.reading();
        let format = reading.format_of(self.input.as_deref())?;
        if format != Format::Jsonl && self.on_error == OnError::Skip {
            return Err(Error::Usage(format!(
                "--on-error skip is for jsonl: in {format} an utterance is no line"
            )));
        }
        if format == Format::Parquet {
            note_left_out(&ListReader::open_as(self.input.as_deref(), &Fields::default(), &reading)?);
        }
        Ok(Reading { format: Some(format), ..reading })
    }

    fn output(&self, reading: &Reading) -> Result<ListWriter> {
        let path = self.output.as_deref().filter(|path| *path != Path::new("-"));
        let same = path.and(reading.format).unwrap_or(Format::Jsonl);
        let format = self.output_format.unwrap_or(same);
        if format != Format::Jsonl && self.prune.is_some() {
            return Err(Error::Usage(format!(
                "--prune leaves hypotheses without a score, which {format} needs: add --output-format jsonl"
            )));
        }
        if let (Some(path), None) = (path, self.output_format)
            && let Some(named) = Format::of_name(path).filter(|named| *named != format)
        {
            let path = path.display();
            note(format!(
                "{path} will be {format}, as the input is: --output-format {named} makes it {named}"
            ));
        }
        ListWriter::create(path, format)
    }

    /// The file for skipped lines, where lines may be skipped.
    fn rejects(&self) -> Result<Option<PathBuf>> {
        let output = self.output.as_deref().filter(|path| *path != Path::new("-"));
        match (self.on_error, &self.rejects, output) {
            (OnError::Stop, None, _) => Ok(None),
            (OnError::Stop, Some(_), _) => Err(Error::Usage("--rejects needs --on-error skip".into())),
            (OnError::Skip, Some(rejects), Some(output)) if atomic::is_same(rejects, output) => {
                Err(Error::Usage("--rejects and --output name the same file".into()))
            }
            (OnError::Skip, Some(rejects), _) => Ok(Some(rejects.clone())),
            (OnError::Skip, None, Some(output)) => {
                let mut path = output.as_os_str().to_os_string();
                path.push(".rejects");
                Ok(Some(path.into()))
            }
            (OnError::Skip, None, None) => {
                Err(Error::Usage("--on-error skip to the standard output needs --rejects FILE".into()))
            }
        }
    }
}

/// It is no error that whoever reads the output has gone.
fn until_the_reader_has_seen_enough(done: Result<()>) -> Result<()> {
    match done {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

fn write_served(
    server: &Server,
    mut input: ReadAhead,
    mut output: ListWriter,
    mut rejects: Option<Rejects>,
) -> Result<()> {
    let mut utterances = 0;
    while let Some(batch) = input.next_batch() {
        server.rescore(&batch)?.into_iter().try_for_each(|line| output.write_rescored(line))?;
        utterances += batch.utterances.len();
        reject(batch.failure, &mut rejects)?;
    }
    finish(output, rejects)?;
    note(format!("rescored {utterances} utterances"));
    Ok(())
}

fn write_all(
    rescorer: &Rescorer,
    settings: &RescoringFile,
    prune: Option<Margin>,
    input: ReadAhead,
    mut output: ListWriter,
    mut rejects: Option<Rejects>,
) -> Result<()> {
    let start = Instant::now();
    let margin = prune.unwrap_or(Margin::NONE);
    let goes_on = |failure| reject(failure, &mut rejects);
    let done = rewrite(rescorer, settings, margin, input, &mut output, goes_on)?;
    let seconds = start.elapsed().as_secs_f64();
    finish(output, rejects)?;
    let Counts { utterances, hypotheses, pruned, tokens, cut } = done;
    if prune.is_some() {
        let (all, margin) = (hypotheses + pruned, margin.value());
        note(format!("pruned {pruned} of {all} hypotheses, more than {margin} below the best of their list"));
    }
    let limit = rescorer.max_tokens();
    note(format!(
        "rescored {utterances} utterances, {hypotheses} hypotheses ({cut} cut at {limit} tokens), \
         {tokens} tokens in {seconds:.1} s: {:.0} tokens/s",
        tokens as f64 / seconds
    ));
    Ok(())
}

/// Keeps what could not be read, where that may be skipped.
fn reject(failure: Option<Failure>, rejects: &mut Option<Rejects>) -> Result<()> {
    match (failure, rejects) {
        (Some(failure @ Failure { error: Error::List { .. }, .. }), Some(rejects)) => rejects.add(failure),
        (Some(failure), _) => Err(failure.error),
        (None, _) => Ok(()),
    }
}

/// Gives both files their names.
fn finish(output: ListWriter, rejects: Option<Rejects>) -> Result<()> {
    note_dropped(&output.finish()?);
    rejects.map_or(Ok(()), Rejects::finish)
}

/// The lines that were skipped, as they were.
struct Rejects {
    path: PathBuf,
    file: AtomicFile,
    count: usize,
}

impl Rejects {
    fn create(path: &Path) -> Result<Rejects> {
        Ok(Rejects { path: path.into(), file: AtomicFile::create(path)?, count: 0 })
    }

    fn add(&mut self, failure: Failure) -> Result<()> {
        note(format!("skipped: {}", failure.error));
        self.count += 1;
        let mut write = |bytes: &[u8]| self.file.write_all(bytes);
        write(&failure.line).and_then(|()| write(b"\n")).map_err(|e| Error::io(&self.path, "write it", e))
    }

    fn finish(self) -> Result<()> {
        if self.count > 0 {
            note(format!("skipped {} lines, which are in {}", self.count, self.path.display()));
        }
        self.file.commit()
    }
}
