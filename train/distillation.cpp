#include "train/distillation.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "eval/data/dice.h"
#include "eval/data/examples.h"
#include "eval/data/prompt_hash.h"
#include "eval/store/work_directory.h"
#include "train/block_loss.h"
#include "train/still_routers.h"

namespace signalbox::train {

namespace {

namespace fs = std::filesystem;

constexpr const char *closed_dir = "closed-form", *blocks_dir = "blocks", *logits_dir = "logits";

// Whole sequences: every token that has a next one counts.
std::vector<Example> whole_sequences(const std::vector<Example>& examples) {
  std::vector<Example> out;
  for (const Example& example : examples) {
    Example whole;
    whole.prompt = example.prompt;
    whole.targets.assign(example.prompt->tokens.begin() + 1, example.prompt->tokens.end());
    whole.targets.push_back(-1);
    out.push_back(std::move(whole));
  }
  return out;
}

std::vector<const Example*> pointers_to(const std::vector<Example>& examples) {
  std::vector<const Example*> out;
  for (const Example& example : examples) out.push_back(&example);
  return out;
}

// What of --weights the student does not have, or could not learn, is known before there is one.
void check_weights(const Distillation& distillation) {
  const DistillationSettings& settings = distillation.settings;
  Session student;
  student.model = distillation.rewrite->with_one_block(block_width(distillation.session->model, settings.keep));
  std::vector<TensorId> ids;
  for (const WantedWeight& one : wanted_weights(settings.weights, student)) ids.push_back(one.id);
  refuse_still_routers("--weights", student.model, ids);
}

class Stages {
 public:
  explicit Stages(const Distillation& distillation)
      : d_(distillation),
        settings_(distillation.settings),
        session_(*distillation.session),
        pool_(settings_.logits.threads),
        teacher_(session_.forward(0)) {}

  TrainingEnd run(WorkDirectory& work) {
    const fs::path& dir = d_.dir;
    if (!fs::exists(dir / quality_file)) {
      const std::vector<Example> calibrate = examples_of(d_.splits.calibrate);
      stop_ = examples_of(d_.splits.stop);
      whole_ = whole_sequences(calibrate);
      model_ = d_.rewrite->with_one_block(block_width(session_.model, settings_.keep));
      calibration_ = train::calibrate(teacher_, session_.weights, session_.shape, pointers_to(whole_), settings_.sample,
                                      settings_.logits.seed, settings_.logits.groups, settings_.logits.threads,
                                      counter("measuring experts", pointers_to(whole_)));
      close();
      if (settings_.blocks.steps() > 0 && !train_blocks()) return TrainingEnd::interrupted;
      if (settings_.logits.steps() > 0 && !train_logits(calibrate)) return TrainingEnd::interrupted;
      judge();
    }
    publish();
    work.finish(RunStatus::complete);
    return TrainingEnd::complete;
  }

 private:
  fs::path last_checkpoint() const {
    if (settings_.logits.steps() > 0) return d_.dir / logits_dir / checkpoint_dir;
    if (settings_.blocks.steps() > 0) return d_.dir / blocks_dir / checkpoint_dir;
    return d_.dir / closed_dir;
  }

  std::vector<Example> examples_of(const std::vector<Record>& records) const {
    return make_examples(session_, records, settings_.end_token);
  }

  std::function<void(int64_t)> counter(const std::string& stage, const std::vector<const Example*>& examples) const {
    const int64_t total = tokens_of(examples);
    return [this, stage, total](int64_t done) { d_.on_progress(stage, done, total, "tokens"); };
  }

  std::vector<BlockChoice> best(KeepScore score) {
    return best_choice(session_.model, session_.weights, calibration_, settings_.keep, score, *session_.backend);
  }

  std::vector<Block> blocks_of(const std::vector<BlockChoice>& choice) const {
    std::vector<Block> blocks;
    for (const BlockChoice& one : choice) {
      const Layer& layer = model_.layers[one.layer];
      blocks.push_back(concatenated(session_.model, session_.weights, one,
                                    layer.moe() ? layer.moe()->d_ff : std::get<Dense>(layer.ffn).d_ff));
    }
    return blocks;
  }

  std::vector<BlockFit> fit(std::vector<Block>& blocks, const std::string& stage) {
    RefitSettings refit_settings;
    refit_settings.ridge = settings_.ridge;
    refit_settings.groups = settings_.logits.groups;
    refit_settings.on_progress = [&](int64_t done, int64_t of) { d_.on_progress(stage, done, of, "tokens"); };
    return refit(teacher_, pointers_to(whole_), blocks, refit_settings, pool_);
  }

  ChangedModel student_of(const std::vector<Block>& blocks) const {
    return with_blocks(session_.model, session_.weights, model_, blocks, d_.rewrite->block_dtype());
  }

  // The closed form: closed-form/ and blocks.csv.
  void close() {
    if (fs::exists(d_.dir / closed_dir)) return;
    const std::vector<BlockChoice> choice = best(settings_.score);
    std::vector<Block> blocks = blocks_of(choice);
    const std::vector<BlockFit> fits = fit(blocks, "fitting blocks");
    CsvWriter csv(
        {"layer", "experts", "alpha", "shared", "neurons", "mean_square", "error_concatenated", "error_refit"});
    for (size_t l = 0; l < fits.size(); ++l) {
      csv.cell(int64_t{fits[l].layer});
      csv.cell(joined(choice[l].keep, " ", [](int32_t e) { return std::to_string(e); }));
      csv.cell(joined(choice[l].alpha, " ", [](double alpha) { return short_number(alpha); }));
      csv.cell(choice[l].shared).cell(blocks[l].n).cell(fits[l].mean_square).cell(fits[l].before).cell(fits[l].after);
      csv.end_row();
    }
    write_file_atomically(d_.dir / blocks_file, csv.text());
    d_.rewrite->write(student_of(blocks), d_.dir / closed_dir);
  }

  bool train_blocks() {
    const CsvTable table = CsvTable::read(d_.dir / blocks_file);
    std::map<int32_t, double> squares;
    for (size_t row = 0; row < table.n_rows(); ++row)
      squares[static_cast<int32_t>(table.integer(row, table.column("layer")))] =
          table.number(row, table.column("mean_square"));
    const auto wanted = [&](const Session& student) {
      std::vector<WantedWeight> of_blocks;
      for (WantedWeight& one : wanted_weights("*", student)) switch (one.id.role) {
          case Role::dense_gate:
          case Role::dense_up:
          case Role::dense_down:
          case Role::expert_gate:
          case Role::expert_up:
          case Role::expert_down:
          case Role::expert_gate_bias:
          case Role::expert_up_bias:
          case Role::expert_down_bias:
            if (squares.count(one.id.layer) > 0) of_blocks.push_back(one);
            break;
          default: break;
        }
      return of_blocks;
    };
    StudentStage stage = stage_of(blocks_dir, "training blocks", d_.dir / closed_dir, settings_.blocks);
    stage.data = &whole_;
    const std::vector<Example> stop = whole_sequences(stop_);
    stage.stop = &stop;
    stage.wanted = wanted;
    stage.objective = [&](Session& student, Forward& teacher) {
      return std::make_unique<BlockObjective>(teacher, student.weights, squares);
    };
    return train_student(stage);
  }

  bool train_logits(const std::vector<Example>& calibrate) {
    const fs::path from = settings_.blocks.steps() > 0 ? d_.dir / blocks_dir / checkpoint_dir : d_.dir / closed_dir;
    StudentStage stage = stage_of(logits_dir, "training on logits", from, settings_.logits);
    stage.data = &calibrate;
    stage.stop = &stop_;
    stage.wanted = [&](const Session& student) { return wanted_weights(settings_.weights, student); };
    stage.objective = by_logits(settings_.teacher);
    return train_student(stage);
  }

  StudentStage stage_of(const char* name, const char* doing, const fs::path& from,
                        const TrainingSettings& settings) const {
    StudentStage stage;
    stage.teacher = &session_;
    stage.open = d_.open;
    stage.dir = d_.dir / name;
    stage.from = from;
    stage.identity = d_.manifest.identity;
    stage.settings = settings;
    stage.on_progress = [this, doing](int64_t done, int64_t total) { d_.on_progress(doing, done, total, "tokens"); };
    stage.on_note = d_.on_note;
    stage.interrupted = d_.interrupted;
    return stage;
  }

  // ---- quality.csv

  void judge() {
    StudentJudge judge({&d_.splits.report, &d_.splits.other}, session_, d_.dir, settings_.logits, d_.on_progress);
    judge.original(d_.rewrite->original_sizes(), teacher_);
    const std::vector<BlockChoice> choice = best(settings_.score);
    const ChangedModel concatenation = student_of(blocks_of(choice));
    const loaders::Rewrite::Sizes sizes = d_.rewrite->sizes(concatenation);
    if (settings_.logits.steps() > 0 || settings_.blocks.steps() > 0) {
      judge.checkpoint("student", settings_.keep, last_checkpoint(), d_.open, sizes);
      if (settings_.logits.steps() > 0 && settings_.blocks.steps() > 0)
        judge.checkpoint("blocks", settings_.keep, d_.dir / blocks_dir / checkpoint_dir, d_.open, sizes);
      judge.checkpoint("closed_form", settings_.keep, d_.dir / closed_dir, d_.open, sizes);
    } else {
      judge.checkpoint("student", settings_.keep, d_.dir / closed_dir, d_.open, sizes);
    }
    const auto add_changed = [&](const std::string& plan, std::optional<uint64_t> seed, const ChangedModel& changed) {
      Forward forward(*session_.backend, changed.model, changed.weights, 0);
      judge.add(plan, settings_.keep, seed, changed.model, d_.rewrite->sizes(changed), forward);
    };
    const auto add_choice = [&](const std::string& plan, std::optional<uint64_t> seed,
                                const std::vector<BlockChoice>& chosen) {
      std::vector<Block> blocks = blocks_of(chosen);
      fit(blocks, "fitting " + plan + (seed ? ", seed " + std::to_string(*seed) : ""));
      add_changed(plan, seed, student_of(blocks));
    };
    add_changed("concatenation", std::nullopt, concatenation);
    add_choice("frequency", std::nullopt, best(KeepScore::sf));
    if (settings_.keep == session_.model.n_experts())
      d_.on_note("--keep " + std::to_string(settings_.keep) +
                 ": all experts stay, so that the plans frequency and random are the closed form again, no controls");
    for (int64_t i = 0; i < settings_.random; ++i) {
      const uint64_t seed = settings_.logits.seed + static_cast<uint64_t>(i);
      add_choice("random", seed, random_choice(session_.model, calibration_, settings_.keep, seed));
    }
    judge.write(d_.dir);
  }

  void publish() {
    publish_student(d_.dir, last_checkpoint(), {{blocks_dir, "blocks_"}, {logits_dir, ""}},
                    {closed_dir, blocks_dir, logits_dir});
  }

  const Distillation& d_;
  const DistillationSettings& settings_;
  Session& session_;
  ThreadPool pool_;
  Forward teacher_;
  Model model_;  // the student
  std::vector<Example> whole_, stop_;
  Calibration calibration_;
};

}  // namespace

Splits split_records(SplitFiles files, uint64_t seed) {
  Splits out;
  const int64_t missing = !files.stop + !files.report;
  if (missing == 0) {
    out.calibrate = std::move(files.data);
  } else {
    const std::vector<size_t> example_of = independent_examples(files.data);
    std::vector<size_t> examples(example_of);
    std::sort(examples.begin(), examples.end());
    examples.erase(std::unique(examples.begin(), examples.end()), examples.end());
    const auto n = static_cast<int64_t>(examples.size());
    if (n <= missing)
      throw Error("--data", "expected at least " + std::to_string(missing + 1) +
                                " examples, one for each split that no file is given for (--stop, --eval), found " +
                                std::to_string(n));
    Dice(seed, "distill split").shuffle(examples);
    const int64_t part = std::max<int64_t>(1, n / 4);
    std::map<size_t, std::vector<Record>*> goes_to;
    int64_t at = 0;
    for (auto* split : {files.stop ? nullptr : &out.stop, files.report ? nullptr : &out.report})
      for (int64_t i = 0; split && i < part; ++i) goes_to[examples[static_cast<size_t>(at++)]] = split;
    for (size_t i = 0; i < files.data.size(); ++i) {
      const auto found = goes_to.find(example_of[i]);
      (found == goes_to.end() ? &out.calibrate : found->second)->push_back(std::move(files.data[i]));
    }
  }
  if (files.stop) out.stop = std::move(*files.stop);
  if (files.report) out.report = std::move(*files.report);
  refuse_common_prompts(out.calibrate, "learn by", out.stop, "stop by");
  refuse_common_prompts(out.calibrate, "learn by", out.report, "judge by");
  refuse_common_prompts(out.stop, "stop by", out.report, "judge by");
  if (files.domain.empty()) return out;
  const auto is_other = [&](const Record& record) {
    const json::Value* domain = record.source.find("domain");
    return !domain || !domain->is_string() || domain->string() != files.domain;
  };
  for (const Record& record : out.report)
    if (is_other(record)) out.other.push_back(record);
  const std::pair<std::vector<Record>*, const char*> all[] = {
      {&out.calibrate, "calibrate"}, {&out.stop, "stop"}, {&out.report, "report"}};
  for (const auto& [split, is] : all) {
    std::erase_if(*split, is_other);
    if (split->empty())
      throw Error("--domain",
                  std::string("expected records of it to ") + is + ", found none of " + in_quotes(files.domain));
  }
  return out;
}

TrainingEnd distil(const Distillation& distillation) {
  block_width(distillation.session->model, distillation.settings.keep);  // throws before there is a directory
  if (distillation.settings.logits.steps() > 0) check_weights(distillation);
  WorkDirectory work(distillation.dir, distillation.manifest);
  if (work.complete()) return TrainingEnd::was_complete;
  const TrainingEnd end = Stages(distillation).run(work);
  if (end == TrainingEnd::interrupted) work.finish(RunStatus::interrupted);
  return end;
}

}  // namespace signalbox::train
