// Refuses filters and tests that do not exist, before anything is rendered. As in jinja, what stands inside a condition
// is checked only when it is reached, so that a template can ask `is filter` first.
#include "loaders/template/parser.h"
#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

void check_expr(const Expr* expr, bool soft) {
  if (!expr) return;
  if (!soft && expr->kind == ExprKind::filter && !known_filter(expr->text))
    throw SyntaxFailure{expr->line, "there is no filter '" + shorten(expr->text) + "'"};
  if (!soft && expr->kind == ExprKind::test && !known_test(expr->text))
    throw SyntaxFailure{expr->line, "there is no test '" + shorten(expr->text) + "'"};
  if (expr->kind == ExprKind::conditional) soft = true;
  for (const auto& part : expr->parts) check_expr(part.get(), soft);
  for (const auto& keyword : expr->keywords) check_expr(keyword.second.get(), soft);
  check_expr(expr->star.get(), soft);
  check_expr(expr->star_star.get(), soft);
}

void check_body(const Body& body, bool soft) {
  for (const auto& stmt : body) {
    // Everything that opens a scope of its own is checked again.
    const bool opens = stmt->kind == StmtKind::for_loop || stmt->kind == StmtKind::macro ||
                       stmt->kind == StmtKind::call_block || stmt->kind == StmtKind::filter_block ||
                       stmt->kind == StmtKind::set_block || stmt->kind == StmtKind::with ||
                       stmt->kind == StmtKind::scope || stmt->kind == StmtKind::block;
    const bool inner = opens ? false : soft;
    const bool value_inner = stmt->kind == StmtKind::filter_block || stmt->kind == StmtKind::set_block;
    check_expr(stmt->value.get(), value_inner ? inner : soft);
    check_expr(stmt->test.get(), inner);
    for (const auto& expr : stmt->exprs) check_expr(expr.get(), soft);
    for (const auto& expr : stmt->macro.defaults) check_expr(expr.get(), false);
    for (const auto& branch : stmt->branches) {
      check_expr(branch.test.get(), true);
      check_body(branch.body, true);
    }
    check_body(stmt->body, inner);
    check_body(stmt->else_body, inner);
  }
}

}  // namespace

void check_names(const Template& parsed) { check_body(parsed.body, false); }

}  // namespace signalbox::loaders::jinja
