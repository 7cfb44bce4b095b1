#include "eval/experiment/provenance.h"

#include <algorithm>
#include <optional>
#include <set>

#include "base/text.h"
#include "eval/data/prompt_hash.h"
#include "eval/store/facts.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

// "a", "b" and 3 more
std::string listed_ids(const std::vector<std::string>& ids) {
  constexpr size_t most = 8;
  const std::vector<std::string> shown(ids.begin(), ids.begin() + static_cast<int64_t>(std::min(ids.size(), most)));
  const std::string text = joined(shown, ", ", [](const std::string& id) { return in_quotes(id); });
  return ids.size() > most ? text + " and " + std::to_string(ids.size() - most) + " more" : text;
}

// What stands beside a ranking.
class Summary {
 public:
  explicit Summary(const fs::path& ranking) : file_(ranking.parent_path() / "summary.json") {
    std::error_code ignored;
    if (!fs::exists(file_, ignored)) return;
    there_ = true;
    value_ = json::parse_file(file_);
    const json::Ref root(value_, file_.string());
    if (value_.type() != json::Type::object) return;
    if (value_.find("prompts")) {
      prompts_.emplace();
      add(root);
      incomplete_ = value_.find("prompts_incomplete") != nullptr;
      bool of_contrast = ranking.filename() == "rd.csv";
      if (const auto tables = root.find("tables")) {  // what it is about: a copy may stand beside another's summary
        const std::string hash = fs::is_regular_file(ranking) ? file_hash(ranking) : std::string();
        of_contrast = false;
        foreign_ = true;
        for (const auto& [name, value] : tables->members()) {
          if (value.string() != hash) continue;
          foreign_ = false;
          of_contrast = of_contrast || name == "rd.csv";
        }
      }
      // Tables beside a contrast count further records.
      const auto others = root.find("not_in_contrast");
      if (others && !of_contrast) add(*others);
    }
    if (value_.find("records")) ids_ = strings(root.at("records"));
  }

  const fs::path& file() const { return file_; }
  const std::optional<std::set<std::string>>& prompts() const { return prompts_; }
  const std::optional<std::set<std::string>>& ids() const { return ids_; }

  std::string problem() const {
    if (!there_) return "beside which there is no summary.json";
    if (foreign_) return "which is none of the tables that the summary.json beside it is about";
    if (prompts_) return incomplete_ ? "whose summary.json knows only some of the prompts that chose it" : "";
    return ids_ ? "whose summary.json lists ids, not prompts"
                : "whose summary.json does not say which prompts chose it";
  }

 private:
  static std::set<std::string> strings(const json::Ref& list) {
    std::set<std::string> out;
    for (const json::Ref& item : list.items()) out.insert(item.string());
    return out;
  }
  void add(const json::Ref& object) {
    for (const char* key : {"prompts", "prompt_aliases"})
      if (const auto list = object.find(key)) prompts_->merge(strings(*list));
  }

  fs::path file_;
  bool there_ = false, incomplete_ = false, foreign_ = false;
  json::Value value_;
  std::optional<std::set<std::string>> prompts_, ids_;
};

// Ids of the records whose prompt is one of these.
std::vector<std::string> tested_prompts(const std::set<std::string>& prompts,
                                        const std::vector<EvaluatedRecord>& evaluated) {
  std::vector<std::string> ids;
  for (const EvaluatedRecord& one : evaluated)
    if (std::any_of(one.hashes.begin(), one.hashes.end(), [&](const auto& hash) { return prompts.contains(hash); }))
      ids.push_back(one.record->id);
  return ids;
}

void check_ids(const ExperimentSpec& spec, const RankingUse& use, const Summary& summary,
               const std::vector<EvaluatedRecord>& evaluated) {
  for (const EvaluatedRecord& one : evaluated) {
    const Record& record = *one.record;
    const json::Value* base = record.source.find("base");
    if (!summary.ids()->contains(record.id) && !(base && base->is_string() && summary.ids()->contains(base->string())))
      continue;
    if (!spec.split)
      throw Error(spec.where, use.path + ": expected a \"split\", for " + use.file.string() +
                                  " was made from records that are to be tested, found none (first such record: " +
                                  in_quotes(record.id) + ")");
    throw Error(spec.where, use.path + ": expected no record of " + summary.file().string() +
                                " among those to be tested, found " + in_quotes(record.id));
  }
}

}  // namespace

EvaluatedRecord evaluated_without_model(const Record& record) {
  EvaluatedRecord out{&record, {line_prompt_hash(record.source)}};
  if (const json::Value* base = record.source.find("base_prompt"); base && base->is_string())
    out.hashes.push_back(base->string());
  return out;
}

std::vector<RankingOrigin> check_rankings(const ExperimentSpec& spec, const std::vector<EvaluatedRecord>& evaluated) {
  std::vector<RankingOrigin> origins;
  for (const RankingUse& use : rankings_of(spec)) {
    if (!use.detect.empty()) continue;
    if (!fs::is_regular_file(use.file))
      throw Error(spec.where, use.path + ": expected a file, found none at " + use.file.string());
    const auto same = [&](const RankingOrigin& origin) { return origin.file == use.given; };
    if (std::any_of(origins.begin(), origins.end(), same)) continue;
    const Summary summary(use.file);
    if (summary.prompts()) {
      const std::vector<std::string> ids = tested_prompts(*summary.prompts(), evaluated);
      if (!ids.empty()) {
        const std::string found = std::to_string(ids.size()) + " (" + listed_ids(ids) + ")";
        throw Error(
            spec.where,
            use.path + (spec.split
                            ? ": expected no prompt of " + summary.file().string() +
                                  " among those to be tested, found " + found
                            : ": expected a \"split\", for " + use.file.string() +
                                  " was chosen on prompts that are to be tested, found none; such records: " + found));
      }
    } else if (summary.ids()) {
      check_ids(spec, use, summary, evaluated);
    }
    origins.push_back({use.path, use.given, summary.problem()});
  }
  return origins;
}

}  // namespace signalbox::eval
