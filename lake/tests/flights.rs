//! The flights, end to end, in a lake on disk. The same on S3: `scripts/lake-s3`.

use streambreaker_lake::Lake;

#[path = "support/flights.rs"]
mod flights;

#[tokio::test]
async fn l1_l6_l8_a_component_with_a_bug_is_mended_its_faults_sent_again_and_the_stream_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::local(folder.path()).unwrap();
    flights::a_bug_is_mended_its_faults_sent_again_and_the_stream_replayed(&lake).await;
}
