namespace FlashInfer.Tests.BadInput;

/// <summary>What a refusal must look like: the exception's exact type, the argument's name, and a message with the value and what was expected.</summary>
internal static class Refused
{
    public static void Argument(string parameter, string message, Action action) => Check<ArgumentException>(parameter, message, action);

    public static void Range(string parameter, string message, Action action) =>
        Check<ArgumentOutOfRangeException>(parameter, message, action);

    public static void Operation(string message, Action action) =>
        Assert.Contains(message, Assert.Throws<InvalidOperationException>(action).Message, StringComparison.Ordinal);

    public static void Check<T>(string parameter, string message, Action action)
        where T : ArgumentException
    {
        T e = Assert.Throws<T>(action);
        Assert.Equal(parameter, e.ParamName);
        Assert.Contains(message, e.Message, StringComparison.Ordinal);
    }
}
