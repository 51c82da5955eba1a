//! The programs under `examples/`, run as a user runs them.

use std::path::PathBuf;
use std::process::Command;

/// An example's program beside this test's; there is none if only this test was built.
fn program(name: &str) -> Option<PathBuf> {
    let test = std::env::current_exe().expect("the test has a path");
    let program = test.parent()?.parent()?.join("examples").join(name);
    program.exists().then_some(program)
}

#[test]
fn the_shop_sells_and_a_second_process_reads() {
    let Some(program) = program("shop") else {
        println!("skipped: the example is built by `cargo test` without `--test`");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(program).arg(dir.path().join("store")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let expected = "\
fruit: [\"apple\", \"pear\"]
apple: 6 left
pear: only 3 left
newest: [\"order 3\", \"order 2\"]
visits: 100
name/apple: 6 left
name/pear: 3 left
name/soap: 5 left
";
    assert_eq!(said, expected);
}
