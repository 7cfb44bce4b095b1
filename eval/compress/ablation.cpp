#include "eval/compress/ablation.h"

#include "base/json.h"

namespace signalbox::eval {

namespace {

json::Value ban_of(int32_t layer, int32_t expert) {
  json::Value edit = json::Value::object();
  edit.set("op", "deactivate").set("mode", "ban").set("layers", std::to_string(layer));
  edit.set("experts", json::Value::array().push_back(int64_t{expert}));
  return json::Value::array().push_back(std::move(edit));
}

}  // namespace

std::vector<std::vector<Ablation>> ablate_experts(const Session& session, const RecordJobs& records,
                                                  const std::vector<LayerMeasures>& layers, const RunOptions& run,
                                                  const std::function<void(int64_t done)>& on_progress) {
  std::vector<std::vector<Ablation>> out;
  int64_t before = 0;
  for (const LayerMeasures& layer : layers) {
    std::vector<Job> jobs;
    std::vector<int32_t> banned;  // [jobs] -1: the reference
    const auto add = [&](const EncodedRecord& record, std::shared_ptr<const EditPlan> plan, int64_t reference,
                         int32_t e) {
      if (record.prompt->tokens.size() < 2) return false;
      Job job = make_job(record, Score{1, reference}, std::move(plan));
      job.index = static_cast<int64_t>(jobs.size());
      if (e < 0) std::get<Score>(job.task).reference = job.index;
      jobs.push_back(std::move(job));
      banned.push_back(e);
      return true;
    };
    std::vector<const EncodedRecord*> used;
    for (const EncodedRecord& record : records.encoded)
      if (add(record, nullptr, 0, -1)) used.push_back(&record);
    if (used.empty()) throw Error("--ablation", "expected a record of at least two tokens, found none");
    for (int32_t e = 0; e < layer.n_experts; ++e) {
      const json::Value edits = ban_of(layer.layer, e);
      const auto plan = session.edits(json::Ref(edits, "ablation"), ".", 0);
      for (size_t r = 0; r < used.size(); ++r) add(*used[r], plan, static_cast<int64_t>(r), e);
    }
    std::vector<Result> results(jobs.size());
    RunEvents events;
    int64_t last = 0;
    events.on_done = [&](Result result) { results[static_cast<size_t>(result.index)] = std::move(result); };
    events.on_progress = [&](int64_t done) {
      last = done;
      if (on_progress) on_progress(before + done);
    };
    session.run(jobs, run, events, nullptr);
    before += last;
    std::vector<Ablation>& of_layer = out.emplace_back(static_cast<size_t>(layer.n_experts));
    int64_t tokens = 0;
    for (size_t r = 0; r < used.size(); ++r) tokens += static_cast<int64_t>(results[r].logprobs.size());
    for (size_t j = used.size(); j < jobs.size(); ++j) {
      Ablation& one = of_layer[static_cast<size_t>(banned[j])];
      const Result& with = results[static_cast<size_t>(*jobs[j].score()->reference)];
      for (size_t i = 0; i < with.logprobs.size(); ++i) {
        one.kl += results[j].divergence[i] / static_cast<double>(tokens);
        one.nll += (with.logprobs[i] - results[j].logprobs[i]) / static_cast<double>(tokens);
      }
    }
  }
  return out;
}

}  // namespace signalbox::eval
