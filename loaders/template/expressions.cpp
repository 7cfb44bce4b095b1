// The grammar of expressions.
#include <algorithm>

#include "loaders/template/parser.h"
#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

constexpr int deepest_tree = 1000;

ExprPtr constant_text(ExprPtr expr, std::string text) {
  expr->constant =
      Value::object(Kind::string, std::make_shared<const Text>(nullptr, std::move(text), std::vector<Span>(), false));
  return expr;
}

}  // namespace

ExprPtr Parser::node(ExprKind kind, int line) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  return expr;
}

ExprPtr Parser::finish(ExprPtr expr) const {
  int depth = 0;
  for (const auto& part : expr->parts)
    if (part) depth = std::max(depth, part->depth);
  for (const auto& keyword : expr->keywords) depth = std::max(depth, keyword.second->depth);
  if (expr->star) depth = std::max(depth, expr->star->depth);
  if (expr->star_star) depth = std::max(depth, expr->star_star->depth);
  expr->depth = depth + 1;
  if (expr->depth > deepest_tree) fail("the expression is nested too deeply");
  return expr;
}

ExprPtr Parser::parse_expression(bool with_condition) {
  const Level level(*this);
  return with_condition ? parse_conditional() : parse_or();
}

ExprPtr Parser::parse_conditional() {
  const Level level(*this);
  int line = current().line;
  ExprPtr value = parse_or();
  while (skip_name("if")) {
    ExprPtr condition = parse_or(), otherwise;
    if (skip_name("else")) otherwise = parse_conditional();
    ExprPtr expr = node(ExprKind::conditional, line);
    expr->parts.push_back(std::move(condition));
    expr->parts.push_back(std::move(value));
    expr->parts.push_back(std::move(otherwise));
    value = finish(std::move(expr));
    line = current().line;
  }
  return value;
}

ExprPtr Parser::parse_or() {
  int line = current().line;
  ExprPtr left = parse_and();
  while (skip_name("or")) {
    ExprPtr expr = node(ExprKind::logical_or, line);
    expr->parts.push_back(std::move(left));
    expr->parts.push_back(parse_and());
    left = finish(std::move(expr));
    line = current().line;
  }
  return left;
}

ExprPtr Parser::parse_and() {
  int line = current().line;
  ExprPtr left = parse_not();
  while (skip_name("and")) {
    ExprPtr expr = node(ExprKind::logical_and, line);
    expr->parts.push_back(std::move(left));
    expr->parts.push_back(parse_not());
    left = finish(std::move(expr));
    line = current().line;
  }
  return left;
}

ExprPtr Parser::parse_not() {
  const Level level(*this);
  if (!is_name("not")) return parse_compare();
  ExprPtr expr = node(ExprKind::logical_not, next().line);
  expr->parts.push_back(parse_not());
  return finish(std::move(expr));
}

ExprPtr Parser::parse_compare() {
  const int line = current().line;
  ExprPtr first = parse_sum(), expr;
  while (true) {
    std::string op;
    if (current().type == TokenType::op) {
      static constexpr std::string_view operators[] = {"==", "!=", "<", "<=", ">", ">="};
      if (std::find(std::begin(operators), std::end(operators), current().text) != std::end(operators))
        op = next().text;
    } else if (skip_name("in")) {
      op = "in";
    } else if (is_name("not") && look().type == TokenType::name && look().text == "in") {
      next();
      next();
      op = "not in";
    }
    if (op.empty()) break;
    if (!expr) {
      expr = node(ExprKind::compare, line);
      expr->parts.push_back(std::move(first));
    }
    expr->operators.push_back(op);
    expr->parts.push_back(parse_sum());
  }
  return expr ? finish(std::move(expr)) : std::move(first);
}

ExprPtr Parser::parse_sum() {
  int line = current().line;
  ExprPtr left = parse_concat();
  while (is_op("+") || is_op("-")) {
    ExprPtr expr = node(ExprKind::binary, line);
    expr->text = next().text;
    expr->parts.push_back(std::move(left));
    expr->parts.push_back(parse_concat());
    left = finish(std::move(expr));
    line = current().line;
  }
  return left;
}

ExprPtr Parser::parse_concat() {
  const int line = current().line;
  ExprPtr first = parse_product();
  if (!is_op("~")) return first;
  ExprPtr expr = node(ExprKind::concat, line);
  expr->parts.push_back(std::move(first));
  while (skip_op("~")) expr->parts.push_back(parse_product());
  return finish(std::move(expr));
}

ExprPtr Parser::parse_product() {
  int line = current().line;
  ExprPtr left = parse_power();
  while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
    ExprPtr expr = node(ExprKind::binary, line);
    expr->text = next().text;
    expr->parts.push_back(std::move(left));
    expr->parts.push_back(parse_power());
    left = finish(std::move(expr));
    line = current().line;
  }
  return left;
}

ExprPtr Parser::parse_power() {
  int line = current().line;
  ExprPtr left = parse_unary();
  while (is_op("**")) {
    ExprPtr expr = node(ExprKind::binary, line);
    expr->text = next().text;
    expr->parts.push_back(std::move(left));
    expr->parts.push_back(parse_unary());
    left = finish(std::move(expr));
    line = current().line;
  }
  return left;
}

ExprPtr Parser::parse_unary(bool with_filter) {
  const Level level(*this);
  ExprPtr expr;
  if (is_op("-") || is_op("+")) {
    expr = node(is_op("-") ? ExprKind::negate : ExprKind::plus, current().line);
    next();
    expr->parts.push_back(parse_unary(false));
    expr = finish(std::move(expr));
  } else {
    expr = parse_primary();
  }
  expr = parse_postfix(std::move(expr));
  return with_filter ? parse_filters(std::move(expr)) : std::move(expr);
}

ExprPtr Parser::parse_primary(bool target) {
  const Token& token = current();
  const int line = token.line;
  switch (token.type) {
    case TokenType::name: {
      next();
      const std::string& name = token.text;
      ExprPtr expr = node(ExprKind::constant, line);
      if (name == "true" || name == "True")
        expr->constant = Value::boolean(true);
      else if (name == "false" || name == "False")
        expr->constant = Value::boolean(false);
      else if (name == "none" || name == "None")
        expr->constant = Value::none();
      else {
        expr->kind = ExprKind::name;
        expr->name = intern(name);
        if (target && namespace_targets_ && skip_op(".")) {
          expr->kind = ExprKind::attribute_target;
          expr->text = expect_any_name();
        } else {
          mention(name, target);
        }
      }
      return expr;
    }
    case TokenType::string: {
      std::string text;
      while (current().type == TokenType::string) text += next().text;
      return constant_text(node(ExprKind::constant, line), std::move(text));
    }
    case TokenType::number: {
      ExprPtr expr = node(ExprKind::constant, line);
      expr->constant = next().number;
      return expr;
    }
    case TokenType::op:
      if (skip_op("(")) {
        ExprPtr expr = parse_tuple(false, true, TupleEnd::none, true);
        expect_op(")");
        return expr;
      }
      if (is_op("[")) return parse_list();
      if (is_op("{")) return parse_dict();
      [[fallthrough]];
    default: fail_unexpected();
  }
}

ExprPtr Parser::parse_list() {
  const Level level(*this);
  ExprPtr expr = node(ExprKind::list, current().line);
  expect_op("[");
  while (!is_op("]")) {
    if (!expr->parts.empty()) expect_op(",");
    if (is_op("]")) break;
    expr->parts.push_back(parse_expression());
  }
  expect_op("]");
  return finish(std::move(expr));
}

ExprPtr Parser::parse_dict() {
  const Level level(*this);
  ExprPtr expr = node(ExprKind::dict, current().line);
  expect_op("{");
  while (!is_op("}")) {
    if (!expr->parts.empty()) expect_op(",");
    if (is_op("}")) break;
    expr->parts.push_back(parse_expression());
    expect_op(":");
    expr->parts.push_back(parse_expression());
  }
  expect_op("}");
  return finish(std::move(expr));
}

ExprPtr Parser::parse_tuple(bool target, bool with_condition, TupleEnd end, bool parentheses) {
  const Level level(*this);
  ExprPtr expr = node(ExprKind::tuple, current().line);
  bool is_tuple = false;
  while (true) {
    if (!expr->parts.empty()) expect_op(",");
    const TokenType type = current().type;
    if (type == TokenType::variable_end || type == TokenType::block_end || is_op(")")) break;
    if ((end == TupleEnd::in && is_name("in")) || (end == TupleEnd::recursive && is_name("recursive"))) break;
    expr->parts.push_back(target ? parse_primary(true) : parse_expression(with_condition));
    if (!is_op(",")) break;
    is_tuple = true;
    expr->line = current().line;
  }
  if (!is_tuple) {
    if (!expr->parts.empty()) return std::move(expr->parts.front());
    if (!parentheses) fail_unexpected();
  }
  return finish(std::move(expr));
}

// Targets may be names, tuples of them, and attributes of namespaces.
void Parser::check_target(const Expr& target, bool with_namespace) const {
  switch (target.kind) {
    case ExprKind::name: return;
    case ExprKind::attribute_target:
      if (with_namespace) return;
      break;
    case ExprKind::tuple:
      for (const auto& part : target.parts) check_target(*part, with_namespace);
      return;
    default: break;
  }
  fail_at(target.line, "cannot assign to this expression");
}

ExprPtr Parser::parse_target(TupleEnd end, bool with_namespace) {
  const bool before = namespace_targets_;
  namespace_targets_ = with_namespace;
  ExprPtr target = parse_tuple(true, true, end);
  namespace_targets_ = before;
  check_target(*target, with_namespace);
  return target;
}

int Parser::parse_name_target() {
  const std::string name = expect_any_name();
  static constexpr std::string_view reserved[] = {"true", "false", "none", "True", "False", "None"};
  if (std::find(std::begin(reserved), std::end(reserved), name) != std::end(reserved))
    fail("cannot assign to '" + name + "'");
  mention(name, true);
  return intern(name);
}

ExprPtr Parser::parse_postfix(ExprPtr expr) {
  while (true) {
    if (is_op(".") || is_op("["))
      expr = parse_subscript(std::move(expr));
    else if (is_op("("))
      expr = parse_call(std::move(expr));
    else
      return expr;
  }
}

ExprPtr Parser::parse_filters(ExprPtr expr) {
  while (true) {
    if (is_op("|"))
      expr = parse_filter(std::move(expr));
    else if (is_name("is"))
      expr = parse_test(std::move(expr));
    else if (is_op("("))
      expr = parse_call(std::move(expr));
    else
      return expr;
  }
}

ExprPtr Parser::parse_subscript(ExprPtr object) {
  const int line = current().line;
  if (skip_op(".")) {
    const Token& token = next();
    if (token.type == TokenType::name) {
      ExprPtr expr = node(ExprKind::attribute, line);
      expr->text = token.text;
      expr->parts.push_back(std::move(object));
      return finish(std::move(expr));
    }
    if (token.type != TokenType::number || !token.number.is(Kind::integer)) fail("expected a name or number");
    ExprPtr expr = node(ExprKind::item, line), index = node(ExprKind::constant, line);
    index->constant = token.number;
    expr->parts.push_back(std::move(object));
    expr->parts.push_back(std::move(index));
    return finish(std::move(expr));
  }
  expect_op("[");
  std::vector<ExprPtr> indices;
  ExprPtr slice;
  while (!is_op("]")) {
    if (slice) fail("a slice among several subscripts is not supported");
    if (!indices.empty()) expect_op(",");
    ExprPtr first;
    if (!is_op(":")) first = parse_expression();
    if (!skip_op(":")) {
      indices.push_back(std::move(first));
      continue;
    }
    if (!indices.empty()) fail("a slice among several subscripts is not supported");
    slice = node(ExprKind::slice, line);
    slice->parts.push_back(nullptr);
    slice->parts.push_back(std::move(first));
    const auto at_end = [&] { return is_op("]") || is_op(","); };
    slice->parts.push_back(is_op(":") || at_end() ? nullptr : parse_expression());
    slice->parts.push_back(skip_op(":") && !at_end() ? parse_expression() : nullptr);
  }
  expect_op("]");
  if (slice) {
    slice->parts[0] = std::move(object);
    return finish(std::move(slice));
  }
  ExprPtr expr = node(ExprKind::item, line);
  expr->parts.push_back(std::move(object));
  if (indices.size() == 1) {
    expr->parts.push_back(std::move(indices.front()));
  } else {
    ExprPtr tuple = node(ExprKind::tuple, line);
    tuple->parts = std::move(indices);
    expr->parts.push_back(finish(std::move(tuple)));
  }
  return finish(std::move(expr));
}

void Parser::parse_arguments(Expr& call) {
  const Level level(*this);
  const int line = current().line;
  expect_op("(");
  const auto ensure = [&](bool right) {
    if (!right) fail_at(line, "invalid syntax for the arguments of a call");
  };
  for (bool first = true; !is_op(")"); first = false) {
    if (!first) {
      expect_op(",");
      if (is_op(")")) break;
    }
    if (skip_op("*")) {
      ensure(!call.star && !call.star_star);
      call.star = parse_expression();
    } else if (skip_op("**")) {
      ensure(!call.star_star);
      call.star_star = parse_expression();
    } else if (current().type == TokenType::name && look().type == TokenType::op && look().text == "=") {
      ensure(!call.star_star);
      const std::string name = next().text;
      next();
      for (const auto& keyword : call.keywords)
        if (keyword.first == name) fail("the keyword argument '" + name + "' is repeated");
      call.keywords.emplace_back(name, parse_expression());
    } else {
      ensure(!call.star && !call.star_star && call.keywords.empty());
      call.parts.push_back(parse_expression());
    }
  }
  expect_op(")");
}

ExprPtr Parser::parse_call(ExprPtr callee) {
  ExprPtr expr = node(ExprKind::call, current().line);
  expr->parts.push_back(std::move(callee));
  parse_arguments(*expr);
  return finish(std::move(expr));
}

ExprPtr Parser::parse_filter(ExprPtr subject, bool start_inline) {
  while (is_op("|") || start_inline) {
    if (!start_inline) next();
    start_inline = false;
    ExprPtr expr = node(ExprKind::filter, current().line);
    expr->text = expect_any_name();
    while (skip_op(".")) expr->text += "." + expect_any_name();
    expr->parts.push_back(std::move(subject));
    if (is_op("(")) parse_arguments(*expr);
    subject = finish(std::move(expr));
  }
  return subject;
}

ExprPtr Parser::parse_test(ExprPtr subject) {
  const int line = next().line;
  const bool negated = skip_name("not");
  ExprPtr expr = node(ExprKind::test, line);
  expr->text = expect_any_name();
  while (skip_op(".")) expr->text += "." + expect_any_name();
  expr->parts.push_back(std::move(subject));
  const TokenType type = current().type;
  if (is_op("(")) {
    parse_arguments(*expr);
  } else if (type == TokenType::string || type == TokenType::number || is_op("[") || is_op("{") ||
             (type == TokenType::name && !is_name("else") && !is_name("or") && !is_name("and"))) {
    if (is_name("is")) fail("tests cannot be chained with 'is'");
    expr->parts.push_back(parse_postfix(parse_primary()));
  }
  expr = finish(std::move(expr));
  if (!negated) return expr;
  ExprPtr inverse = node(ExprKind::logical_not, line);
  inverse->parts.push_back(std::move(expr));
  return finish(std::move(inverse));
}

}  // namespace signalbox::loaders::jinja
