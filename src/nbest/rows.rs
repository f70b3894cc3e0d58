//! Tables of one hypothesis a row, whatever holds them: `id` and `text`, `rank` counting the hypotheses of an utterance
//! from 1, `ref` what was said, and any other column a field of the hypothesis.

use serde_json::{Map, Value};

use super::lines::Origin;
use super::reader::Records;
use super::record::{Defect, Record};
use crate::Result;

pub(super) const RANK: &str = "rank";

/// One hypothesis.
pub(super) struct Row {
    pub id: String,
    pub rank: Option<u64>,
    pub reference: Option<String>,
    pub fields: Map<String, Value>,
    pub line: u64,
}

/// The rows of one kind of table.
pub(super) trait Rows: Send {
    fn row(&mut self) -> Result<Option<Row>>;

    fn origin(&self) -> &Origin;

    /// As for [`Records::left_out`].
    fn left_out(&self) -> &[String] {
        &[]
    }
}

/// Reads the rows of an utterance, and one more.
pub(super) struct Grouped<R> {
    rows: R,
    next: Option<Row>,
    line: u64,
}

impl<R: Rows> Grouped<R> {
    pub fn new(rows: R) -> Self {
        Grouped { rows, next: None, line: 0 }
    }

    fn record(&mut self) -> Result<Option<Record>> {
        let first = match self.next.take() {
            Some(row) => row,
            None => match self.rows.row()? {
                Some(row) => row,
                None => return Ok(None),
            },
        };
        self.line = first.line;
        self.check_rank(&first, 1)?;
        let mut hypotheses = vec![first.fields];
        while let Some(row) = self.rows.row()? {
            if row.id != first.id || row.rank == Some(1) {
                self.next = Some(row);
                break;
            }
            self.check_rank(&row, hypotheses.len() as u64 + 1)?;
            hypotheses.push(row.fields);
        }
        let mut record = Record::of(first.id, hypotheses);
        if let Some(reference) = first.reference {
            record.set_reference(&reference);
        }
        Ok(Some(record))
    }

    fn check_rank(&self, row: &Row, expected: u64) -> Result<()> {
        match row.rank {
            Some(rank) if rank != expected => {
                let problem = format!("expected rank {expected} of utterance {}, found {rank}", row.id);
                let defect = Defect::new(problem, "sort the rows by utterance and rank");
                Err(self.rows.origin().defect(row.line, defect))
            }
            _ => Ok(()),
        }
    }
}

impl<R: Rows> Records for Grouped<R> {
    fn next(&mut self) -> Option<Result<Record>> {
        self.record().transpose()
    }

    fn origin(&self) -> &Origin {
        self.rows.origin()
    }

    fn line(&self) -> u64 {
        self.line
    }

    fn left_out(&self) -> &[String] {
        self.rows.left_out()
    }
}
