//! Scenes and settings that cannot be, and pockets that would make the pressure's equation singular.

mod common;

use common::hosts;
use macheps_fluid::{Circle, FluidError, Method, Scene, Settings, Simulation};

#[test]
fn sizes_are_checked() {
    for (width, height) in [(15, 64), (64, 4096), (0, 0)] {
        let error = Scene::plume(width, height).solid().expect_err("no such grid");
        assert!(matches!(error, FluidError::Size { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains(&width.to_string()) && said.contains("16 to 2048"),
            "{said}"
        );
    }
}

#[test]
fn pockets_are_filled() {
    let mut scene = Scene::plume(64, 64);
    // A ring of circles with fluid inside.
    scene.obstacles = (0..60)
        .map(|i| {
            let angle = i as f32 * std::f32::consts::TAU / 60.0;
            Circle {
                centre: [0.5 + 0.25 * angle.cos(), 0.5 + 0.25 * angle.sin()],
                radius: 0.04,
            }
        })
        .collect();
    let solid = scene.solid().expect("fluid is left");
    assert!(solid[32 + 64 * 32], "inside the ring");
    assert!(!solid[2 + 64 * 2] && !solid[32 + 64 * 63], "outside of it");

    scene.obstacles = vec![Circle {
        centre: [0.5, 0.5],
        radius: 2.0,
    }];
    assert!(matches!(scene.solid(), Err(FluidError::NoFluid)));
}

#[test]
fn a_budget_has_to_pay_for_something() {
    for host in hosts("a_budget_has_to_pay_for_something") {
        for method in Method::ALL {
            let settings = Settings {
                method,
                dispatches: 1,
                ..Settings::default()
            };
            let made = Simulation::new(&host.device, &host.queue, &Scene::plume(16, 16), &settings);
            let Err(FluidError::Budget { needed, .. }) = made else {
                panic!("{} {}", host.name, method.name());
            };
            let settings = Settings {
                dispatches: needed,
                ..settings
            };
            let simulation = Simulation::new(&host.device, &host.queue, &Scene::plume(16, 16), &settings);
            assert_eq!(simulation.expect("enough").pressure().iterations(), 1);
        }
    }
}
