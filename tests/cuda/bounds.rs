//! What would lead a kernel or a copy out of its memory is refused on the host.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lorb_engine::device::Memory;
use lorb_engine::device::cuda::Rows;
use lorb_engine::ops::attention::{Attention, Inputs, Shape};
use lorb_engine::ops::embedding::Embedding;
use lorb_engine::ops::gather_rows::GatherRows;
use lorb_engine::ops::lora_linear::cuda::Slope;
use lorb_engine::ops::mwer::cuda::{Beta, Lists};

use crate::devices::devices;
use crate::embedding_case::{Data, POSITIONS, VOCABULARY};

fn refused<T>(work: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(work)).is_err()
}

#[test]
fn values_are_one_for_each_element() {
    for cuda in devices() {
        for (len, fits) in [(5, false), (6, true), (7, false), (700, false)] {
            let values = vec![1.0; len];
            assert_eq!(refused(|| cuda.upload_f32(&values, 2, 3)), !fits, "{len}");
            assert_eq!(refused(|| cuda.upload(&values, 2, 3)), !fits, "{len}");
            assert_eq!(refused(|| Slope::upload(&cuda, &values, 2, 3)), !fits, "{len}");
        }
    }
}

#[test]
fn tokens_and_positions_have_rows_in_their_tables() {
    for cuda in devices() {
        let tables = cuda.embedding_tables(Data::new(1, 8, |x| x.to_vec()).tables());
        let embeds = |token: usize, position: usize| {
            let [tokens, positions] = [token, position].map(|n| cuda.index(&[0, n as u32]));
            !refused(|| cuda.embedding(&tables, &tokens, &positions))
        };
        assert!(embeds(VOCABULARY - 1, POSITIONS - 1));
        assert!(!embeds(VOCABULARY, 0) && !embeds(1_000_000, 0) && !embeds(0, POSITIONS));
    }
}

#[test]
fn rows_that_are_gathered_are_there() {
    for cuda in devices() {
        let x = cuda.upload(&[1.0; 12], 3, 4);
        assert!(!refused(|| cuda.gather_rows(&x, &cuda.row_index(&[2, 0], 3))));
        assert!(refused(|| cuda.gather_rows(&x, &cuda.row_index(&[2, 3], 4))));
        // What is not in use leads nowhere, though a kernel that reads it finds a row.
        let within = cuda.row_index_within(&[2, 0], Rows::all(5), Rows::all(3));
        assert!(!refused(|| cuda.gather_rows(&x, &within)));
    }
}

#[test]
fn sequences_lie_within_their_rows() {
    for cuda in devices() {
        let (q, kv) = (cuda.upload(&[1.0; 4 * 8], 4, 8), cuda.upload(&[1.0; 5 * 16], 5, 16));
        let attends = |queries: &[u32], keys: &[u32], single_query: bool| {
            let (query_offsets, key_offsets) = (&cuda.index(queries), &cuda.index(keys));
            let shape = Shape { heads: 1, head_size: 8, query_offsets, key_offsets, single_query };
            !refused(|| cuda.attention(shape, &Inputs::Split(q.clone(), kv.clone())))
        };
        assert!(attends(&[0, 2, 4], &[0, 3, 5], false) && attends(&[0, 1, 2], &[0, 3, 5], true));
        assert!(!attends(&[0, 2, 5], &[0, 3, 5], false), "too many queries");
        assert!(!attends(&[0, 2, 4], &[0, 3, 6], false), "too many keys");
        assert!(!attends(&[0, 2, 4], &[0, 5, 3], false), "a sequence that ends before it starts");
        assert!(!attends(&[0, 1, 2], &[0, 5, 3], true), "one with one query");
    }
}

#[test]
fn utterances_have_the_hypotheses_that_there_are() {
    for cuda in devices() {
        let values = cuda.upload_flat(&[0.0; 3]);
        let counts = |starts: &[u32]| {
            let (starts, utterances) = (&cuda.index(starts), &Rows::all(2));
            let lists = Lists { offsets: &values, errors: &values, starts, utterances };
            let (mut gradient, mut losses) = (cuda.upload_flat(&[0.0]), cuda.upload_flat(&[0.0; 2]));
            let scores = cuda.upload_f32(&[0.0; 3], 3, 1);
            !refused(|| cuda.mwer(&lists, &scores, Beta::Given(1.0), &mut gradient, (&mut losses, 0)))
        };
        assert!(counts(&[0, 2, 3]));
        assert!(!counts(&[0, 2, 4]) && !counts(&[0, 3, 2]));
    }
}
