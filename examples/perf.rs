//! scratch
use std::time::Duration;
fn main() {
    let dev = std::env::args().nth(1).unwrap();
    let op = std::env::args().nth(2);
    let ctx = macheps::Context::with_options(macheps::ContextOptions { device: dev.parse().unwrap(), ..Default::default() }).unwrap();
    for case in macheps::bench::cases(false, op.as_deref()) {
        let t = std::time::Instant::now();
        match macheps::bench::run(&ctx, case.as_ref(), Duration::from_millis(700)) {
            Ok(r) => println!("{:18} {:12} {:4} {:9.3} ms {:6.1} GB/s copy {:6.1} frac {:.2}  (total {:?})", r.op, r.shape, r.dtype, r.seconds_median*1e3, r.gbps(), r.copy_gbps, r.fraction_of_copy(), t.elapsed()),
            Err(e) => println!("{} {} {e}", case.op(), case.shape()),
        }
    }
}
