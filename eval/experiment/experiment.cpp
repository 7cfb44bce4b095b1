#include "eval/experiment/experiment.h"

#include "eval/experiment/limit.h"

namespace signalbox::eval {

Experiment open_experiment(ExperimentSpec parsed, int64_t limit) {
  Experiment experiment;
  ExperimentSpec& spec = experiment.spec;
  spec = std::move(parsed);
  std::vector<Record> records = read_records(spec.data.string());
  if (limit > 0) {
    split_records(spec, records);
    const size_t whole = first_records(spec.split, records, INT64_MAX).size();
    std::vector<Record> first;
    for (const size_t r : first_records(spec.split, records, limit)) first.push_back(std::move(records[r]));
    // One that leaves nothing out is no other run.
    if (first.size() < whole)
      experiment.limit = RecordLimit{limit, static_cast<int64_t>(first.size()), static_cast<int64_t>(whole)};
    records = std::move(first);
  }
  if (spec.programs.empty()) {
    experiment.records = std::move(records);
  } else {
    for (Derived& derived : apply_programs(spec.programs, records)) {
      experiment.records.push_back(std::move(derived.record));
      experiment.program_of.push_back(static_cast<int64_t>(derived.program));
    }
  }
  if (spec.split && spec.split->share > 0) deal_splits(*spec.split, experiment.records, spec.where);
  experiment.splits = split_records(spec, experiment.records);
  CheckedData checked = check_against_records(spec, experiment.records);
  experiment.data = std::move(checked.facts);
  experiment.notes = std::move(checked.notes);
  if (spec.cross_fit) {
    experiment.deals = deal_records(*spec.cross_fit, experiment.records, spec.seed, spec.where);
    for (const Deal& deal : experiment.deals) check_deal(spec, experiment.records, deal);
  }
  std::vector<Record> tested;
  for (const int64_t r : experiment.splits.test) tested.push_back(experiment.records[static_cast<size_t>(r)]);
  if (!spec.metrics_given) {
    spec.metrics = default_metrics(spec, tested);
    check_chosen_metrics(spec, spec.metrics);
  }
  check_edited_targets(spec);
  if (spec.generate && spec.generate->samples > 1 && spec.generate->sampling.temperature == 0 && spec.programs.empty())
    experiment.notes.emplace_back(
        "samples of one record are alike at temperature 0: ask for one, or for a temperature above 0 (\"generate\")");
  return experiment;
}

}  // namespace signalbox::eval
