// Strings and their builder.
#include <algorithm>

#include "base/utf8.h"
#include "loaders/template/value.h"

namespace signalbox::loaders::jinja {
namespace {

uint64_t text_cost(const std::string& bytes, const std::vector<Span>& content) {
  return 96 + bytes.capacity() + content.capacity() * sizeof(Span);
}

}  // namespace

void Budget::fail_steps() const {
  throw Failure{"the template needs more than " + std::to_string(max_steps_) + " steps"};
}

void Budget::fail_bytes() const {
  throw Failure{"the template needs more than " + std::to_string(max_bytes_) + " bytes of memory"};
}

Text::Text(Budget* budget, std::string bytes_in, std::vector<Span> content_in, bool markup_in)
    : bytes(std::move(bytes_in)),
      content(std::move(content_in)),
      length(count_code_points(bytes)),
      markup(markup_in),
      held(budget, text_cost(bytes, content)) {}

size_t Text::offset(size_t index) const {
  if (ascii()) return index;
  size_t at = 0;
  for (; index > 0; --index) {
    ++at;
    while (at < bytes.size() && (static_cast<unsigned char>(bytes[at]) & 0xC0) == 0x80) ++at;
  }
  return at;
}

size_t Text::index(size_t offset) const {
  return ascii() ? offset : count_code_points(std::string_view(bytes).substr(0, offset));
}

bool Text::is_content(size_t offset) const {
  const auto span =
      std::upper_bound(content.begin(), content.end(), offset, [](size_t x, const Span& s) { return x < s.end; });
  return span != content.end() && span->begin <= offset;
}

void TextBuilder::reserve(size_t extra) {
  if (bytes_.capacity() - bytes_.size() >= extra) return;
  const size_t wanted = std::max(bytes_.size() + extra, bytes_.capacity() * 2);
  budget_->hold(wanted - bytes_.capacity());
  held_ += wanted - bytes_.capacity();
  bytes_.reserve(wanted);
}

void TextBuilder::mark(size_t begin, size_t end) {
  if (begin == end) return;
  if (!content_.empty() && content_.back().end == begin) {
    content_.back().end = end;
    return;
  }
  budget_->hold(sizeof(Span) * 2);
  held_ += sizeof(Span) * 2;
  content_.push_back({begin, end});
}

void TextBuilder::add(std::string_view bytes, bool content) {
  budget_->work(bytes.size());
  reserve(bytes.size());
  const size_t at = bytes_.size();
  bytes_.append(bytes);
  if (content) mark(at, bytes_.size());
}

void TextBuilder::add(const Text& text, size_t begin, size_t end) {
  if (begin >= end) return;
  const size_t at = bytes_.size();
  add(std::string_view(text.bytes).substr(begin, end - begin));
  // The first span that ends after `begin`.
  auto span = std::upper_bound(text.content.begin(), text.content.end(), begin,
                               [](size_t x, const Span& s) { return x < s.end; });
  for (; span != text.content.end() && span->begin < end; ++span)
    mark(at + std::max(span->begin, begin) - begin, at + std::min(span->end, end) - begin);
}

void TextBuilder::add_code_point(char32_t c, bool content) {
  std::string bytes;
  append_utf8(bytes, c);
  add(bytes, content);
}

Value TextBuilder::finish(bool markup) {
  budget_->release(held_);
  held_ = 0;
  auto text = std::make_shared<const Text>(budget_, std::move(bytes_), std::move(content_), markup);
  bytes_.clear();
  content_.clear();
  return Value::object(Kind::string, std::move(text));
}

}  // namespace signalbox::loaders::jinja
