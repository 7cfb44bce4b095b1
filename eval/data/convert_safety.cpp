// Requests to be refused or answered: XSTest, AdvBench, BeaverTails.
#include <filesystem>

#include "base/text.h"
#include "eval/data/convert.h"

namespace signalbox::eval {

namespace {

// Calls `make` with each row, its number in its file from 1, and the file's stem.
template <class Make>
std::vector<Row> each_row(const std::vector<std::string>& files, Make make) {
  std::vector<Row> drafts;
  for (const std::string& file : files) {
    const std::string stem = file_stem(file);
    int64_t number = 0;
    for (const Row& row : read_rows(file)) {
      ++number;
      const json::Ref root(row.object, row.where);
      json::Value draft = json::Value::object();
      const auto id = root.find("id");
      draft.set("id", id ? id_text(*id) : stem + "-" + std::to_string(number));
      make(root, draft);
      drafts.push_back({row.where, std::move(draft)});
    }
  }
  return drafts;
}

bool read_bool(const json::Ref& value) {
  if (!value.value().is_string()) return value.boolean();
  const std::string word = ascii_lower(value.string());
  if (word != "true" && word != "false") value.fail_type("true or false");
  return word == "true";
}

}  // namespace

// Unsafe prompts are those labelled "unsafe"; files without labels tell them by a type that begins with "contrast_".
std::vector<Row> read_xstest(const std::vector<std::string>& files) {
  return each_row(files, [](const json::Ref& root, json::Value& draft) {
    bool harmful = false;
    const auto label = root.find("label"), type = root.find("type");
    if (label) {
      const std::string word = ascii_lower(label->string());
      if (word != "safe" && word != "unsafe") label->fail_type("\"safe\" or \"unsafe\"");
      harmful = word == "unsafe";
    } else if (type) {
      harmful = type->string().starts_with("contrast_");
    } else {
      root.fail("expected the column \"label\" or \"type\", found neither");
    }
    draft.set("question", root.at("prompt").string())
        .set("harmful", harmful)
        .set("condition", harmful ? "unsafe" : "safe");
    carry_rest(root.value(), {"prompt"}, draft);
  });
}

std::vector<Row> read_advbench(const std::vector<std::string>& files) {
  return each_row(files, [](const json::Ref& root, json::Value& draft) {
    const bool capital = root.value().find("Goal") != nullptr;  // as JailbreakBench names its columns
    // Their target begins an answer that complies. As our "target" it would be given to the model, and an answer would
    // go on from it, so it gets a name of its own.
    draft.set("question", root.at(capital ? "Goal" : "goal").string())
        .set("harmful", true)
        .set("affirmative", root.at(capital ? "Target" : "target").string());
    carry_rest(root.value(), {"goal", "Goal", "target", "Target"}, draft);
  });
}

std::vector<Row> read_beavertails(const std::vector<std::string>& files) {
  return each_row(files, [](const json::Ref& root, json::Value& draft) {
    const bool safe = read_bool(root.at("is_safe"));
    draft.set("question", root.at("prompt").string())
        .set("response", root.at("response").string())
        .set("is_safe", safe)
        .set("condition", safe ? "safe" : "unsafe");
    if (const auto category = root.find("category"); category && category->value().type() == json::Type::object) {
      json::Value names = json::Value::array();
      for (const auto& [name, holds] : category->members())
        if (holds.boolean()) names.push_back(name);
      draft.set("category", std::move(names));
    }
    carry_rest(root.value(), {"prompt"}, draft);
  });
}

}  // namespace signalbox::eval
