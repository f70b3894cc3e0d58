use std::panic::{AssertUnwindSafe, catch_unwind};

use lorb_engine::device::Memory;
use lorb_engine::device::cpu::{Cpu, Matrix};
use lorb_engine::ops::attention::{Attention, Inputs};

use crate::attention_case::{Case, LogSumExp, SOFTMAX, offsets};
use crate::harness::{Oracle, Random, ULP, check_derivatives, devices, row_bits};

fn forward(cpu: &Cpu, case: &Case, inputs: &Inputs<Matrix>) -> (Matrix, Matrix) {
    let [queries, keys] = case.offsets(cpu);
    cpu.attention(case.shape(&queries, &keys), inputs)
}

fn cases() -> Vec<Case> {
    let ragged = [5, 1, 17, 2, 8, 9, 3, 33];
    vec![
        Case::new(&[1], 1, 1),
        Case::new(&[1, 1, 1], 2, 24),
        Case::new(&ragged, 2, 24),
        Case::new(&ragged, 3, 8).sharp(),
        Case::new(&ragged, 2, 32).cls(),
        Case::new(&[70, 64, 2], 1, 64).sharp().cls(),
        // One and several blocks of queries.
        Case::new(&[63, 64, 65, 70], 1, 24),
        Case::new(&[130], 1, 32).sharp(),
        Case::new(&[20, 41], 1, 64),
        Case { queries: Some(vec![70, 3]), ..Case::new(&[512, 7], 1, 24) },
        Case { queries: Some(vec![2, 130, 1]), ..Case::new(&[31, 40, 16], 2, 7) },
    ]
}

#[test]
fn both_directions_are_those_of_the_oracle() {
    for case in cases() {
        let inputs = case.inputs();
        let dy = Random::new(15).values(case.query_count() * case.hidden());
        let oracle = Oracle::forward(&case, &inputs);
        let of_log = Oracle::forward(&LogSumExp(&case), &inputs);
        let gradients = Oracle::backward(&case, &inputs, &dy);
        for cpu in devices() {
            let name = format!("on {}, {case:?}", cpu.isa().name());
            let x = case.upload(&cpu, &inputs);
            let (y, log_sum_exp) = forward(&cpu, &case, &x);
            let floor = SOFTMAX * f64::from(case.range);
            oracle.check(format!("attention {name}"), &y.values(), floor);
            let what = format!("attention's log-sum-exp {name}");
            let floor = SOFTMAX + ULP * of_log.largest();
            of_log.check(what, &log_sum_exp.values(), floor);

            let dy = cpu.upload(&dy, y.rows(), y.columns());
            let [queries, keys] = case.offsets(&cpu);
            let d = cpu.attention_backward(case.shape(&queries, &keys), &x, &y, &log_sum_exp, &dy);
            let d = match &d {
                Inputs::Fused(d) => d.values(),
                Inputs::Split(dq, dkv) => [dq.values(), dkv.values()].concat(),
            };
            let floor = SOFTMAX * gradients.largest();
            gradients.check(format!("attention_backward {name}"), &d, floor);
        }
    }
}

#[test]
fn long_sequences_are_those_of_the_oracle() {
    let case = Case::new(&[512, 3], 1, 32);
    let inputs = case.inputs();
    let oracle = Oracle::forward(&case, &inputs);
    for cpu in devices() {
        let (y, _) = forward(&cpu, &case, &case.upload(&cpu, &inputs));
        oracle.check(format!("attention on {}, {case:?}", cpu.isa().name()), &y.values(), SOFTMAX);
    }
}

#[test]
fn the_oracle_follows_finite_differences() {
    for queries in [None, Some(vec![1, 2, 1])] {
        let case = Case { queries, range: 2.0, ..Case::new(&[4, 1, 3], 2, 3) };
        let dy = Random::new(16).values(case.query_count() * case.hidden());
        check_derivatives(format!("{case:?}"), &case, &case.inputs(), &dy);
    }
}

/// Alone, in a batch, and as a lone query: the same bits.
#[test]
fn sequences_that_end_before_they_start_are_refused() {
    let case = Case::new(&[2, 2], 1, 8);
    for cpu in devices() {
        let x = case.upload(&cpu, &case.inputs());
        let attends = |queries: &[u32], keys: &[u32]| {
            let [queries, keys] = [queries, keys].map(|offsets| cpu.index(offsets));
            catch_unwind(AssertUnwindSafe(|| cpu.attention(case.shape(&queries, &keys), &x))).is_ok()
        };
        assert!(attends(&[0, 2, 4], &[0, 1, 4]));
        assert!(!attends(&[0, 4, 2], &[0, 2, 4]) && !attends(&[0, 2, 4], &[0, 4, 2]));
    }
}

#[test]
fn a_sequence_does_not_depend_on_the_others() {
    let case = Case::new(&[5, 1, 17, 130, 8], 2, 24);
    let inputs = case.inputs();
    let starts = offsets(&case.keys);
    let h = case.hidden();
    for cpu in devices() {
        let (y, _) = forward(&cpu, &case, &case.upload(&cpu, &inputs));
        for (s, &length) in case.keys.iter().enumerate() {
            let first = starts[s] as usize;
            let tokens = &inputs[first * 3 * h..][..length * 3 * h];
            let alone = Case::new(&[length], 2, 24);
            let (one, _) = forward(&cpu, &alone, &alone.upload(&cpu, tokens));
            let cls = alone.clone().cls();
            let kv: Vec<f32> = tokens.chunks_exact(3 * h).flat_map(|t| t[h..].to_vec()).collect();
            let (first_query, _) = forward(&cpu, &cls, &cls.upload(&cpu, &[&tokens[..h], &kv].concat()));
            for i in 0..length {
                assert_eq!(row_bits(&one, i), row_bits(&y, first + i), "token {i} of sequence {s}");
            }
            assert_eq!(row_bits(&first_query, 0), row_bits(&y, first), "the query of sequence {s}");
        }
    }
}
