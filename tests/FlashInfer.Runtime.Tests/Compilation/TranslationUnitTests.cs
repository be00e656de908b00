namespace FlashInfer.Runtime.Tests.Compilation;

public sealed class TranslationUnitTests
{
    [Theory]
    [InlineData("")]
    [InlineData(" ")]
    [InlineData("../escape")]
    [InlineData("1st")]
    [InlineData("a-b")]
    [InlineData("größe")]
    [InlineData("fi_x\n")]
    public void A_name_that_is_no_identifier_never_becomes_a_file_name(string name)
    {
        ArgumentException e = Assert.Throws<ArgumentException>(() => TestUnits.Unit(name, ""));

        Assert.Equal("name", e.ParamName);
        Assert.Contains($"'{name}'; expected a C identifier", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("f")]
    [InlineData("_F9")]
    public void An_identifier_is_taken(string name) => Assert.Equal(name, TestUnits.Unit(name, "").Name);

    [Fact]
    public void No_name_is_named() => Assert.Throws<ArgumentNullException>("name", () => new TranslationUnit(null!, ""u8));

    [Fact]
    public void A_zero_byte_in_the_text_is_refused_instead_of_cutting_the_text()
    {
        ArgumentException e = Assert.Throws<ArgumentException>(() => TestUnits.Unit("fi_x", "ab\0c"));

        Assert.Equal("source", e.ParamName);
        Assert.Contains("has a zero byte at 2", e.Message, StringComparison.Ordinal);
    }
}
