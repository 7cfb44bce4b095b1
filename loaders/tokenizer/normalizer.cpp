#include "loaders/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <optional>

#include "loaders/tokenizer/pattern.h"
#include "loaders/tokenizer/unicode.h"

namespace signalbox::loaders::tokenizer {
namespace {

// --- Unicode normalization forms -------------------------------------------------------------------------------------

int combining_class(char32_t c) {
  if (c < 0x300 || is_unknown_to_normalizer(c)) return 0;
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class;
}

// The primary composite of two code points; 0 when there is none.
char32_t compose_pair(char32_t a, char32_t b) {
  if (b < 0x300) return 0;  // no composition has a second part below
  utf8proc_int32_t pair[3] = {static_cast<utf8proc_int32_t>(a), static_cast<utf8proc_int32_t>(b), 0};
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  if (utf8proc_normalize_utf32(pair, 2, options) != 1) return 0;
  const auto c = static_cast<char32_t>(pair[0]);
  return is_unknown_to_normalizer(c) ? 0 : c;
}

class UnicodeForm : public Normalizer {
 public:
  UnicodeForm(bool compose, bool compatible) : compose_(compose), compatible_(compatible) {}

  void apply(AlignedText& text, bool) const override {
    if (inert(text.text)) return;
    std::vector<Change> changes = decompose(text.text);
    if (compose_) changes = compose(changes);
    text.rewrite(changes);
  }

 private:
  // Text that the form cannot change: NFC keeps everything below U+0300, the others all of ASCII.
  bool inert(std::string_view text) const {
    const char32_t limit = compose_ && !compatible_ ? 0x300 : 0x80;
    for (size_t pos = 0; pos < text.size();)
      if (next_code_point(text, pos) >= limit) return false;
    return true;
  }

  std::vector<Change> decompose(std::string_view text) const {
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | (compatible_ ? UTF8PROC_COMPAT : 0));
    std::vector<Change> changes;
    changes.reserve(text.size());
    for (size_t pos = 0; pos < text.size();) {
      const char32_t c = next_code_point(text, pos);
      utf8proc_int32_t parts[32];
      int boundary = 0;
      utf8proc_ssize_t n = 1;
      if (c >= 0x80 && !is_unknown_to_normalizer(c))
        n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32, options, &boundary);
      if (c < 0x80 || is_unknown_to_normalizer(c) || n < 1 || n > 32) {
        n = 1;
        parts[0] = static_cast<utf8proc_int32_t>(c);
      }
      for (utf8proc_ssize_t i = 0; i < n; ++i) changes.push_back({static_cast<char32_t>(parts[i]), i > 0 ? 1 : 0});
    }
    // Canonical order: marks between two starters sort by class, stably.
    for (size_t i = 0; i < changes.size();) {
      if (combining_class(changes[i].c) == 0) {
        ++i;
        continue;
      }
      size_t end = i;
      while (end < changes.size() && combining_class(changes[end].c) != 0) ++end;
      std::stable_sort(changes.begin() + static_cast<std::ptrdiff_t>(i),
                       changes.begin() + static_cast<std::ptrdiff_t>(end),
                       [](const Change& a, const Change& b) { return combining_class(a.c) < combining_class(b.c); });
      i = end;
    }
    return changes;
  }

  static std::vector<Change> compose(const std::vector<Change>& parts) {
    std::vector<Change> out;
    out.reserve(parts.size());
    std::optional<size_t> starter;  // in out
    int last_class = -1;            // of what stands between the starter and here; -1: nothing
    for (const Change& part : parts) {
      const int part_class = combining_class(part.c);
      if (starter && (last_class < 0 || last_class < part_class)) {
        if (const char32_t c = compose_pair(out[*starter].c, part.c)) {
          out[*starter] = {c, out[*starter].change + part.change - 1};
          continue;
        }
      }
      out.push_back(part);
      if (part_class == 0) {
        starter = out.size() - 1;
        last_class = -1;
      } else if (starter) {
        last_class = part_class;
      }
    }
    return out;
  }

  bool compose_, compatible_;
};

// --- the others ------------------------------------------------------------------------------------------------------

class Normalizers : public Normalizer {
 public:
  explicit Normalizers(std::vector<std::unique_ptr<Normalizer>> parts) : parts_(std::move(parts)) {}
  void apply(AlignedText& text, bool prefix) const override {
    for (const auto& part : parts_) part->apply(text, prefix);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void apply(AlignedText& text, bool prefix) const override {
    if (prefix) text.prepend(prefix_);
  }

 private:
  std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}

  // What is put in has the source of the last code point that is taken out.
  void apply(AlignedText& text, bool) const override {
    const std::vector<ByteRange> matches = pattern_.find_all(text.text);
    if (matches.empty()) return;
    std::string new_text;
    std::vector<ByteRange> new_source;
    uint32_t done = 0;
    auto keep = [&](uint32_t end) {
      new_text.append(text.text, done, end - done);
      new_source.insert(new_source.end(), text.source.begin() + done, text.source.begin() + end);
      done = end;
    };
    for (const ByteRange& match : matches) {
      keep(match.begin);
      ByteRange from{text.base, text.base};
      if (match.end > match.begin)
        from = text.source[match.end - 1];
      else if (!new_source.empty())
        from = new_source.back();
      new_text += content_;
      new_source.insert(new_source.end(), content_.size(), from);
      done = match.end;
    }
    keep(static_cast<uint32_t>(text.text.size()));
    text.text = std::move(new_text);
    text.source = std::move(new_source);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Lowercase : public Normalizer {
 public:
  void apply(AlignedText& text, bool) const override {
    std::vector<Change> changes;
    std::u32string lower;
    for (size_t pos = 0; pos < text.text.size();) {
      lower.clear();
      append_lower(lower, next_code_point(text.text, pos));
      for (size_t i = 0; i < lower.size(); ++i) changes.push_back({lower[i], i > 0 ? 1 : 0});
    }
    text.rewrite(changes);
  }
};

// Keeps the code points that `keep` says; `keep` sees them with their index.
template <class Keep>
void filter(AlignedText& text, Keep keep) {
  std::vector<Change> changes;
  size_t removed_in_front = 0, index = 0;
  for (size_t pos = 0; pos < text.text.size(); ++index) {
    const char32_t c = next_code_point(text.text, pos);
    if (keep(c, index))
      changes.push_back({c, 0});
    else if (changes.empty())
      ++removed_in_front;
    else
      --changes.back().change;
  }
  text.rewrite(changes, removed_in_front);
}

class StripAccents : public Normalizer {
 public:
  void apply(AlignedText& text, bool) const override {
    filter(text, [](char32_t c, size_t) { return !is_combining_mark(c); });
  }
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(AlignedText& text, bool) const override {
    size_t n = 0, first = 0, last = 0;  // kept: [first, last)
    bool seen = false;
    for (size_t pos = 0; pos < text.text.size(); ++n) {
      if (is_whitespace(next_code_point(text.text, pos))) continue;
      if (!seen) first = n;
      seen = true;
      last = n + 1;
    }
    if (!left_) first = 0;
    if (!right_) last = n;
    if (!seen) first = last = 0;
    if (first > 0 || last < n) filter(text, [&](char32_t, size_t i) { return i >= first && i < last; });
  }

 private:
  bool left_, right_;
};

}  // namespace

std::unique_ptr<Normalizer> read_normalizer(const json::Ref& spec) {
  const std::string& type = spec.at("type").string();
  if (type == "Sequence") {
    spec.reject_unknown({"type", "normalizers"});
    std::vector<std::unique_ptr<Normalizer>> parts;
    for (const json::Ref& part : spec.at("normalizers").items()) parts.push_back(read_normalizer(part));
    return std::make_unique<Normalizers>(std::move(parts));
  }
  if (type == "Prepend") {
    spec.reject_unknown({"type", "prepend"});
    return std::make_unique<Prepend>(spec.at("prepend").string());
  }
  if (type == "Replace") {
    spec.reject_unknown({"type", "pattern", "content"});
    return std::make_unique<Replace>(read_pattern(spec.at("pattern")), spec.at("content").string());
  }
  if (type == "Strip") {
    spec.reject_unknown({"type", "strip_left", "strip_right"});
    return std::make_unique<Strip>(spec.at("strip_left").boolean(), spec.at("strip_right").boolean());
  }
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    spec.reject_unknown({"type"});
    return std::make_unique<UnicodeForm>(type.back() == 'C', type[2] == 'K');
  }
  if (type == "Lowercase") {
    spec.reject_unknown({"type"});
    return std::make_unique<Lowercase>();
  }
  if (type == "StripAccents") {
    spec.reject_unknown({"type"});
    return std::make_unique<StripAccents>();
  }
  spec.at("type").fail(
      "expected Sequence, Prepend, Replace, Strip, NFC, NFD, NFKC, NFKD, Lowercase or StripAccents, found \"" + type +
      "\"");
}

}  // namespace signalbox::loaders::tokenizer
