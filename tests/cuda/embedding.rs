use lorb_engine::device::Memory;
use lorb_engine::device::cuda::Rows;
use lorb_engine::ops::embedding::Embedding;

use crate::devices::{devices, rounded, stored};
use crate::embedding_case::{Data, POSITIONS, VOCABULARY};
use crate::harness::{Oracle, ULP, bits};

#[test]
fn rows_are_those_of_the_oracle() {
    for (rows, width) in [(1, 7), (2, 17), (6, 64), (5, 97), (3, 768), (2, 1024)] {
        for cuda in devices() {
            let data = Data::new(rows, width, |x| rounded(x, cuda.precision()));
            let oracle = stored(Oracle::forward(&data, &[]), cuda.precision());

            let tables = cuda.embedding_tables(data.tables());
            let (tokens, positions): (Vec<u32>, Vec<u32>) = data.places.iter().copied().unzip();
            let (tokens, positions) = (cuda.index(&tokens), cuda.index(&positions));
            let run = || cuda.download(&cuda.embedding(&tables, &tokens, &positions)).unwrap();
            let y = run();
            let name = format!("embedding {:?}, {rows} rows of {width}", cuda.precision());
            oracle.check(&name, &y, 4.0 * ULP * oracle.largest());
            assert_eq!(bits(&run()), bits(&y), "{name} again");

            // With room for more tokens, whose numbers are of no row.
            let live = cuda.live_rows(rows + 3, rows as u32);
            let within = |values: &[u32], n| cuda.row_index_within(values, live.clone(), Rows::all(n));
            let (tokens, positions): (Vec<u32>, Vec<u32>) = data.places.iter().copied().unzip();
            let (tokens, positions) = (within(&tokens, VOCABULARY), within(&positions, POSITIONS));
            let more = cuda.download(&cuda.embedding(&tables, &tokens, &positions)).unwrap();
            assert_eq!(bits(&more[..rows * width]), bits(&y), "{name}, with room for more");
            assert!(more[rows * width..].iter().all(|y| y.is_nan()), "{name}: a write past the live rows");
        }
    }
}
