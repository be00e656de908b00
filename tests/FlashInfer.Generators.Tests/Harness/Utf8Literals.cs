using System.Text;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FlashInfer.Generators.Tests.Harness;

/// <summary>The <c>u8</c> literals of generated files as the compiler reads them: the bytes, not their spelling in the source.</summary>
internal static class Utf8Literals
{
    public static IEnumerable<byte[]> Of(Compilation compilation) =>
        compilation
            .SyntaxTrees.Where(static tree => tree.FilePath.EndsWith(".g.cs", StringComparison.Ordinal))
            .SelectMany(static tree => tree.GetRoot().DescendantNodes())
            .OfType<LiteralExpressionSyntax>()
            .Where(static literal => literal.IsKind(SyntaxKind.Utf8StringLiteralExpression))
            .Select(static literal => Encoding.UTF8.GetBytes(literal.Token.ValueText));
}
