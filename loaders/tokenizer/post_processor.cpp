#include "loaders/tokenizer/post_processor.h"

#include <algorithm>

#include "loaders/tokenizer/byte_level.h"
#include "loaders/tokenizer/unicode.h"

namespace signalbox::loaders::tokenizer {
namespace {

constexpr int64_t max_special_id = 1 << 27;

class PostProcessors : public PostProcessor {
 public:
  explicit PostProcessors(std::vector<std::unique_ptr<PostProcessor>> parts) : parts_(std::move(parts)) {}
  void apply(Draft& draft, bool add_special) const override {
    for (const auto& part : parts_) part->apply(draft, add_special);
  }
  bool adds_tokens() const override {
    return std::any_of(parts_.begin(), parts_.end(), [](const auto& part) { return part->adds_tokens(); });
  }
  std::optional<int32_t> begin_id() const override {
    for (auto part = parts_.rbegin(); part != parts_.rend(); ++part)
      if (const auto id = (*part)->begin_id()) return id;
    return std::nullopt;
  }

 private:
  std::vector<std::unique_ptr<PostProcessor>> parts_;
};

class Template : public PostProcessor {
 public:
  Template(std::vector<int32_t> in_front, std::vector<int32_t> behind)
      : in_front_(std::move(in_front)), behind_(std::move(behind)) {}
  void apply(Draft& draft, bool add_special) const override {
    if (!add_special) return;
    auto& [encoding, spellings] = draft;
    encoding.ids.insert(encoding.ids.begin(), in_front_.begin(), in_front_.end());
    encoding.ids.insert(encoding.ids.end(), behind_.begin(), behind_.end());
    encoding.offsets.insert(encoding.offsets.begin(), in_front_.size(), CharRange{});
    encoding.offsets.insert(encoding.offsets.end(), behind_.size(), CharRange{});
    spellings.insert(spellings.begin(), in_front_.size(), {});
    spellings.insert(spellings.end(), behind_.size(), {});
  }
  bool adds_tokens() const override { return true; }
  std::optional<int32_t> begin_id() const override {
    return in_front_.empty() ? std::nullopt : std::optional(in_front_.front());
  }

 private:
  std::vector<int32_t> in_front_, behind_;
};

// Takes the spaces at both ends of a token out of its range.
class TrimOffsets : public PostProcessor {
 public:
  TrimOffsets(bool trim, bool add_prefix_space) : trim_(trim), add_prefix_space_(add_prefix_space) {}

  void apply(Draft& draft, bool) const override {
    if (!trim_) return;
    const auto space = [](char32_t c) { return character_byte(c) == ' ' || is_whitespace(c); };
    for (size_t i = 0; i < draft.encoding.ids.size(); ++i) {
      const std::string_view text = draft.spellings[i];
      auto& [begin, end] = draft.encoding.offsets[i];
      uint32_t leading = 0, trailing = 0;
      for (size_t pos = 0; pos < text.size() && space(next_code_point(text, pos));) ++leading;
      for (size_t pos = text.size(); pos > 0 && space(previous_code_point(text, pos));) ++trailing;
      // One space at the very beginning is the one that was put there: the range never held it.
      if ((i == 0 || begin == 0) && add_prefix_space_ && leading == 1) leading = 0;
      begin = std::min(begin + leading, end);
      if (trailing > 0 && end >= trailing) end = std::max(end - trailing, begin);
    }
  }

 private:
  bool trim_, add_prefix_space_;
};

// One piece of a TemplateProcessing: a special token (its ids) or the text itself.
std::vector<int32_t> ids_of_special(const json::Ref& name, const json::Ref& specials) {
  const std::string& key = name.string();
  for (const auto& [token, entry] : specials.members()) {
    if (token != key) continue;
    entry.reject_unknown({"id", "ids", "tokens"});
    std::vector<int32_t> ids;
    for (const json::Ref& id : entry.at("ids").items())
      ids.push_back(static_cast<int32_t>(id.integer(0, max_special_id)));
    if (ids.size() != entry.at("tokens").length()) entry.fail("expected as many ids as tokens");
    return ids;
  }
  name.fail("expected a token of special_tokens, found \"" + key + "\"");
}

std::unique_ptr<PostProcessor> read_template(const json::Ref& spec) {
  spec.reject_unknown({"type", "single", "pair", "special_tokens"});
  const json::Ref specials = spec.at("special_tokens");
  std::vector<int32_t> in_front, behind;
  bool seen = false;
  for (const json::Ref& piece : spec.at("single").items()) {
    piece.reject_unknown({"SpecialToken", "Sequence"});
    if (const auto special = piece.find("SpecialToken")) {
      special->reject_unknown({"id", "type_id"});
      for (int32_t id : ids_of_special(special->at("id"), specials)) (seen ? behind : in_front).push_back(id);
    } else {
      const json::Ref sequence = piece.at("Sequence");
      sequence.reject_unknown({"id", "type_id"});
      if (sequence.at("id").string() != "A" || seen) sequence.fail("expected the sequence A once");
      seen = true;
    }
  }
  if (!seen) spec.at("single").fail("expected a template with the sequence A");
  return make_template(std::move(in_front), std::move(behind));
}

// ["</s>", 2]
int32_t read_pair(const json::Ref& spec) {
  if (spec.length() != 2) spec.fail("expected a token and its id");
  spec[0].string();
  return static_cast<int32_t>(spec[1].integer(0, max_special_id));
}

}  // namespace

std::unique_ptr<PostProcessor> make_template(std::vector<int32_t> in_front, std::vector<int32_t> behind) {
  return std::make_unique<Template>(std::move(in_front), std::move(behind));
}

std::unique_ptr<PostProcessor> read_post_processor(const json::Ref& spec) {
  const std::string& type = spec.at("type").string();
  if (type == "Sequence") {
    spec.reject_unknown({"type", "processors"});
    std::vector<std::unique_ptr<PostProcessor>> parts;
    for (const json::Ref& part : spec.at("processors").items()) parts.push_back(read_post_processor(part));
    return std::make_unique<PostProcessors>(std::move(parts));
  }
  if (type == "TemplateProcessing") return read_template(spec);
  if (type == "ByteLevel") {
    spec.reject_unknown({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    return std::make_unique<TrimOffsets>(spec.at("trim_offsets").boolean(), spec.at("add_prefix_space").boolean());
  }
  if (type == "BertProcessing") {
    spec.reject_unknown({"type", "sep", "cls"});
    return make_template({read_pair(spec.at("cls"))}, {read_pair(spec.at("sep"))});
  }
  if (type == "RobertaProcessing") {
    spec.reject_unknown({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
    std::vector<std::unique_ptr<PostProcessor>> parts;
    parts.push_back(
        std::make_unique<TrimOffsets>(spec.at("trim_offsets").boolean(), spec.at("add_prefix_space").boolean()));
    parts.push_back(make_template({read_pair(spec.at("cls"))}, {read_pair(spec.at("sep"))}));
    return std::make_unique<PostProcessors>(std::move(parts));
  }
  spec.at("type").fail(
      "expected Sequence, TemplateProcessing, ByteLevel, BertProcessing or RobertaProcessing, found \"" + type + "\"");
}

}  // namespace signalbox::loaders::tokenizer
