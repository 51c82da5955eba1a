//! The program as a person runs it: the lines of each command become charts on one page.

use std::fs;
use std::process::Command;

/// Runs the program; returns its standard output.
fn bench(line: &str) -> String {
    let words = line.split_whitespace();
    let program = env!("CARGO_BIN_EXE_aryavarth-bench");
    let output = Command::new(program).args(words).output().expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8(output.stdout).expect("it prints text")
}

#[test]
fn engines_pools_server_and_memory_get_their_charts_on_one_page() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let quick = "--keys 200 --seconds 0.02 --rounds 1";
    let lines = [
        bench(&format!(
            "engines {quick} --rest 0 --only durable,space,memory --threads 1 \
             --systems aryavarth,redb --dir {at}"
        )),
        bench(&format!("pools {quick} --connections 2 --stores sled --dir {at}")),
        bench(&format!("server {quick} --connections 2 --pipelines 1,4 --dir {at}")),
    ]
    .concat();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "stores are removed");

    let (input, page) = (dir.path().join("lines"), dir.path().join("page.html"));
    fs::write(&input, lines).unwrap();
    bench(&format!("report --in {} --out {}", input.display(), page.display()));
    let page = fs::read_to_string(page).unwrap();
    for chart in [
        "durable set, 1 thread",
        "bytes on disk after the load",
        "memory after the load",
        "requests over sled, 5 % durable sets, connections: 2",
        "requests: GET, 2 connections, pipeline 4",
        "99th percentile of waits: SET, 2 connections, pipeline 1",
        "server time a request: SET, 2 connections, pipeline 4",
        "resident memory after SETs",
    ] {
        assert!(page.contains(&format!("<figcaption>{chart} ")), "{chart}");
    }
}
