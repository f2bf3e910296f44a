//! The PageRank example's own functions, on every adapter.

#[allow(dead_code)]
#[path = "../../examples/pagerank.rs"]
mod example;

use crate::adapters;
use crate::data::{json, shared_data};
use crate::sparse::matrix;
use example::{SURFERS, largest_error, most_linked, ranks_f64, ranks_on, rounding_bound, starts, steps_to, transition};
use macheps::sparse::Coo;

/// Four pages that all link to the first, which links back to the second: by hand.
#[test]
fn by_hand() {
    let mut links = Coo::new(4, 4).unwrap();
    for (from, to) in [(0, 1), (1, 0), (2, 0), (3, 0)] {
        links.push(from, to, 1.0).unwrap();
    }
    let p = transition(&links.to_csr().unwrap()).unwrap();
    let v = starts(4, &[]);
    // With v = 1/4: x2 = x3 = v, x0 = v + d (x1 + 2 v), x1 = v + d x0.
    let (d, v0) = (0.85, 0.25);
    let x0 = v0 * (1.0 + d + 2.0 * d) / (1.0 - d * d);
    let want = [x0, v0 + d * x0, v0, v0];
    let steps = steps_to(1e-9);
    let host = ranks_f64(&p, &v, steps).unwrap();
    assert!(
        host.iter().zip(want).all(|(x, want)| (x - want).abs() < 1e-8),
        "{host:?}"
    );
    for adapter in adapters::all("pagerank::by_hand") {
        let x = ranks_on(adapter.gpu(), &p, &v, steps).unwrap();
        let error = largest_error(&x, &want, 1);
        assert!(error <= 1e-9 + rounding_bound(&p), "{}: {error:e}", adapter.name);
    }
}

/// Web and social graphs, with pages that link nowhere and pages that thousands link to.
#[test]
fn real_graphs() {
    let Some(folder) = shared_data("gpu_pagerank::real_graphs") else {
        return;
    };
    let index = json(folder.join("matrices/index.json"));
    for (name, rest) in [("polblogs", 1e-7), ("wiki_Vote", 1e-7), ("NotreDame_www", 0.3)] {
        let entry = index["matrices"].as_array().unwrap().iter().find(|e| e["name"] == name);
        let links = matrix(&folder, entry.unwrap());
        let (p, own) = (transition(&links).unwrap(), most_linked(&links, SURFERS - 1));
        let v = starts(links.rows(), &own);
        let steps = steps_to(rest);
        let want = ranks_f64(&p, &v, steps).unwrap();
        for adapter in adapters::all("gpu_pagerank::real_graphs") {
            // SwiftShader would take a minute over the largest, GL as long as lavapipe.
            if rest > 0.1 && !adapter.is("llvmpipe") {
                continue;
            }
            let x = ranks_on(adapter.gpu(), &p, &v, steps).unwrap();
            // Both took the same steps, so what the series leaves out cancels.
            let (error, bound) = (largest_error(&x, &want, SURFERS), rounding_bound(&p));
            println!("{name} on {}: {error:.1e} of {bound:.1e}", adapter.name);
            assert!(error <= bound, "{name} on {}: {error:e} > {bound:e}", adapter.name);
        }
    }
}
