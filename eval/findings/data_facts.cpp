#include "eval/findings/data_facts.h"

#include "base/text.h"

namespace signalbox::eval {

std::vector<std::string> cautions_of(const DataFacts& data) {
  std::vector<std::string> out;
  for (const RankingOrigin& one : data.rankings)
    if (!one.problem.empty())
      out.push_back("experts of unknown origin: " + one.path + " takes them from " + one.file + ", " + one.problem +
                    ". If they were chosen on the records that are tested, effects are too large, and nobody can tell. "
                    "Take the file where signalbox wrote it, with its summary.json beside it, or detect in the run");
  if (std::string copies = copies_sentence(data.copies); !copies.empty()) out.push_back(std::move(copies));
  if (data.shared_between_splits > 0)
    out.push_back(std::to_string(data.shared_between_splits) +
                  " records share their prompt with another split, as one side of different pairs (first: " +
                  in_quotes(data.first_shared) +
                  "). Their pairs were not seen as a whole, but on these records effects may be too large, for their "
                  "experts were chosen on prompts that are tested too. signalbox data split DATA --replace deals such "
                  "pairs out together");
  return out;
}

json::Value data_facts_json(const DataFacts& data) {
  json::Value out = json::Value::object(), rankings = json::Value::array();
  const auto text = [](const std::string& value) { return value.empty() ? json::Value() : json::Value(value); };
  if (data.copies.records > 0) {
    out.set("records", data.copies.records).set("examples", data.copies.examples);
    out.set("named_examples", data.copies.named).set("copies", data.copies.copies);
    out.set("shared_prompts", data.copies.shared).set("first_repeated", text(data.copies.first));
  }
  out.set("shared_between_splits", data.shared_between_splits).set("first_shared", text(data.first_shared));
  for (const RankingOrigin& one : data.rankings) {
    json::Value ranking = json::Value::object();
    rankings.push_back(ranking.set("path", one.path).set("file", one.file).set("problem", text(one.problem)));
  }
  return out.set("rankings", std::move(rankings));
}

DataFacts read_data_facts(const json::Ref& data) {
  DataFacts out;
  const auto text = [](const json::Ref& object, const char* key) {
    const auto found = object.find(key);
    return found ? found->string() : std::string();
  };
  if (const auto records = data.find("records")) {
    out.copies = {records->size(),          data.at("named_examples").size(), data.at("examples").size(),
                  data.at("copies").size(), data.at("shared_prompts").size(), text(data, "first_repeated")};
  }
  out.shared_between_splits = data.at("shared_between_splits").size();
  out.first_shared = text(data, "first_shared");
  for (const json::Ref& one : data.at("rankings").items())
    out.rankings.push_back({one.at("path").string(), one.at("file").string(), text(one, "problem")});
  return out;
}

}  // namespace signalbox::eval
