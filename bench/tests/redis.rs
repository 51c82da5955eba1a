//! Ours beside Debian's redis-server, for a moment: every reply is one that its command must get,
//! and the page of charts has a bar for each system. Skipped where there is no redis-server.

use std::fs;
use std::process::{Command, Output};

fn bench(line: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_aryavarth-bench");
    Command::new(program).args(line.split_whitespace()).output().expect("it can be started")
}

#[test]
fn every_operation_is_measured_on_every_system() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let output = bench(&format!(
        "redis --keys 200 --seconds 0.02 --rounds 1 --connections 2 --pipelines 1,4 --dir {at}"
    ));
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("error: no redis-server runs as") {
        eprintln!("skipped: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "stores are removed");

    let (input, page) = (dir.path().join("lines"), dir.path().join("page.html"));
    fs::write(&input, &output.stdout).unwrap();
    let drawn = bench(&format!("report --in {} --out {}", input.display(), page.display()));
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    let page = fs::read_to_string(page).unwrap();
    for operation in ["GET", "SET", "INCR"] {
        for what in ["requests", "median wait", "99th percentile of waits", "server time a request"]
        {
            for pipeline in [1, 4] {
                let chart = format!("{what}: {operation}, 2 connections, pipeline {pipeline}");
                assert!(page.contains(&format!("<figcaption>{chart} ")), "{chart}");
            }
        }
        let chart = format!("resident memory after {operation}s");
        assert!(page.contains(&format!("<figcaption>{chart} ")), "{chart}");
    }
    let charts = page.matches("<figcaption>").count();
    assert_eq!(page.matches("<text class=\"name ours\"").count(), charts, "one bar each");
    // Processor time is counted in ticks, so a moment may have taken none, and has no ratio then.
    for peer in ["redis (no persistence)", "redis (fsync always)", "do-nothing server"] {
        let ratios = page.matches(&format!("\u{d7} {peer}")).count();
        assert!(ratios * 2 > charts, "{peer}: {ratios} of {charts}");
    }
}

#[test]
fn a_redis_server_that_is_not_there_is_named() {
    let output = bench("redis --redis-server /nowhere/redis-server");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nowhere/redis-server") && said.contains("--redis-server"), "{said}");
}
