use lorb_engine::device::Memory;
use lorb_engine::ops::embedding::Embedding;

use crate::embedding_case::Data;
use crate::harness::{Oracle, ULP, devices};

#[test]
fn rows_are_those_of_the_oracle() {
    for (rows, width) in [(1, 7), (2, 17), (7, 64), (13, 97), (50, 384), (97, 2)] {
        let data = Data::new(rows, width, <[f32]>::to_vec);
        let oracle = Oracle::forward(&data, &[]);
        for cpu in devices() {
            let tables = cpu.embedding_tables(data.tables());
            let (tokens, positions): (Vec<u32>, Vec<u32>) = data.places.iter().copied().unzip();
            let y = cpu.embedding(&tables, &cpu.index(&tokens), &cpu.index(&positions));
            let name = format!("embedding on {}, {rows} rows of {width}", cpu.isa().name());
            oracle.check(name, &y.values(), 2.0 * ULP * oracle.largest());
        }
    }
}
